"""Flags made from a configuration's fields: help and defaults stand in one place, the field."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adaptery.config import Layer

F = TypeVar("F", bound=Callable[..., Any])


def config_flags(schema: type[BaseModel], flags: Mapping[str, str]) -> Callable[[F], F]:
    """A decorator that adds an option for each flag → dotted key of `schema`.

    Values are left as text for `resolve` to check, so that a wrong one is explained in one way
    wherever it comes from. The command gets them as keyword arguments for `given`.
    """

    def decorate(command: F) -> F:
        for flag, key in reversed(list(flags.items())):
            field = field_of(schema, key)
            several = get_origin(field.annotation) is tuple
            command = click.option(
                flag, parameter(key), help=help_of(field), multiple=several, default=None
            )(command)
        return command

    return decorate


def given(flags: Mapping[str, str], values: Mapping[str, Any]) -> Layer:
    """The layer of the flags that were used."""
    keys = {
        key: flag for flag, key in flags.items() if values.get(parameter(key)) not in (None, ())
    }
    layer = Layer.of({key: values[parameter(key)] for key in keys}, "")
    return Layer(layer.values, {key: f"flag {flag}" for key, flag in keys.items()})


def parameter(key: str) -> str:
    """The keyword argument of a dotted key."""
    return key.replace(".", "__")


def field_of(schema: type[BaseModel], key: str) -> FieldInfo:
    """The field behind a dotted key."""
    *groups, last = key.split(".")
    for group in groups:
        nested: Any = schema.model_fields[group].annotation
        schema = nested
    return schema.model_fields[last]


def help_of(field: FieldInfo) -> str:
    """A field's description as a sentence, with its default."""
    text = (field.description or "").rstrip(".")
    default = (
        ""
        if field.is_required() or field.default in (None, ())
        else f"  [default: {field.default}]"
    )
    return f"{text[:1].upper()}{text[1:]}.{default}"
