"""Every flag is read by something, and every flag of a configuration is a field of it."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import click
import pytest
from pydantic import BaseModel

from adaptery.cli import run_options
from adaptery.cli.commands import COMMANDS
from adaptery.cli.flags import given, parameter
from adaptery.config import fields_of, resolve
from adaptery.trainers.config import RunConfig


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand by its whole name."""
    for name, (module, _) in COMMANDS.items():
        command = getattr(importlib.import_module(f"adaptery.cli.{module}"), f"{name}_command")
        yield from within(name, command)


def within(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            yield from within(f"{name} {inner}", found)
    else:
        yield name, command


EVERY = dict(commands())


def read_by(command: click.Command) -> set[str]:
    """The parameters that a command's function reads, itself or as `**rest` that it hands on.

    Of a rest, those are read that its module asks for by name, `rest["name"]`, and the fields of
    the schemas that it fills with it; all, where it calls `f(**rest)`, which refuses unknown ones.
    """
    function: Any = inspect.unwrap(command.callback)  # type: ignore[arg-type]
    module: Any = inspect.getmodule(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    loaded = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names = {node.id for node in loaded if isinstance(node.ctx, ast.Load)}
    rest = inspect.getfullargspec(function).varkw
    if rest not in names:
        return names
    handed_on = [n.value for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg is None]
    if any(isinstance(value, ast.Name) and value.id == rest for value in handed_on):
        return names | {str(parameter.name) for parameter in command.params}
    slices = [n.slice for n in ast.walk(module_tree(module)) if isinstance(n, ast.Subscript)]
    keys = {part.value for part in slices if isinstance(part, ast.Constant)}
    return names | keys | {field for m in takers(tree, rest, module) for field in schema_fields(m)}


def takers(tree: ast.AST, rest: str | None, module: Any) -> Iterator[Any]:
    """The module itself, and those of functions that are given the rest as a whole."""
    yield module
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and any(
            isinstance(value, ast.Name) and value.id == rest for value in call.args
        ):
            function = vars(module).get(getattr(call.func, "id", ""))
            if function is not None:
                yield inspect.getmodule(function)


def module_tree(module: Any) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def schema_fields(module: Any) -> Iterator[str]:
    """The fields, as parameters, of every schema in a module."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, BaseModel):
            yield from map(parameter, fields_of(value))


@pytest.mark.parametrize("name", EVERY)
def test_every_flag_is_read(name: str) -> None:
    wanted = {parameter.name for parameter in EVERY[name].params if parameter.expose_value}
    assert wanted <= read_by(EVERY[name])


def test_the_reading_of_flags_sees_one_that_nothing_reads() -> None:
    @click.command()
    @click.option("--used")
    @click.option("--idle")
    def command(used: str, idle: str) -> None:
        click.echo(used)

    assert "used" in read_by(command)
    assert "idle" not in read_by(command)


@pytest.mark.parametrize("flag", run_options.FLAGS)
def test_a_flag_sets_its_field_of_the_configuration(flag: str) -> None:
    key = run_options.FLAGS[flag]
    assert key in set(fields_of(RunConfig))
    values = {"data__eval": "e.jsonl", "task__kind": "pair", "report_to": ("wandb",)}
    text = values.get(parameter(key), "attention" if key.endswith("targets") else "7")
    layer = given(run_options.FLAGS, {parameter(key): text})
    assert layer.origins == {key: f"flag {flag}"}
    needed = given(run_options.FLAGS, {"name": "a", "base": "b", "data__train": "c"})
    value: Any = resolve(RunConfig, [needed, layer]).value
    for part in key.split("."):
        value = getattr(value, part)
    assert value == (type(value)(text) if isinstance(text, str) else text)
