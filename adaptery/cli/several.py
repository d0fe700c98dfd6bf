"""Parameters that hold several values with commas between them."""

from collections.abc import Callable
from typing import Any

import click


class Words(click.ParamType[Any]):
    """`lora,full` is a tuple of texts."""

    name = "words"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        words = tuple(word.strip() for word in value.split(",") if word.strip())
        if not words:
            self.fail("name at least one, with commas between them.", param, ctx)
        if len(set(words)) < len(words):
            self.fail(f"{value!r} names one twice.", param, ctx)
        return words


class Numbers(click.ParamType[Any]):
    """`4,8,16` is a tuple of numbers of one kind."""

    name = "numbers"

    def __init__(self, kind: Callable[[str], int | float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | float, ...]:
        words = Words().convert(value, param, ctx)
        try:
            return tuple(self.kind(word) for word in words)
        except ValueError as error:
            self.fail(f"{value!r} is no list of numbers such as 4,8,16: {error}.", param, ctx)


class Pairs(click.ParamType[Any]):
    """`yes=3,no=1` is a mapping of texts to numbers."""

    name = "pairs"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        pairs = [word.rpartition("=") for word in Words().convert(value, param, ctx)]
        try:
            return {name.strip(): float(number) for name, equals, number in pairs if named(name)}
        except ValueError:
            self.fail(f"{value!r} is not NAME=NUMBER,NAME=NUMBER.", param, ctx)


def named(name: str) -> bool:
    """True for a name; raises `ValueError` for none."""
    if not name.strip():
        raise ValueError
    return True
