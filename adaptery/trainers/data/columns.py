"""What formats take from a record. What is wrong is a `ValueError` in words."""

import math
from collections.abc import Mapping
from typing import Any

from adaptery.errors import brief


class MissingColumn(ValueError):
    """A record lacks a column that its format needs."""


def need(record: Mapping[str, Any], column: str) -> Any:
    """A column's value."""
    if record.get(column) is None:
        state = "is empty" if column in record else "is missing"
        there = ", ".join(name for name, value in record.items() if value is not None)
        raise MissingColumn(f"the column {column!r} {state}; there are: {there or 'none'}.")
    return record[column]


def text(record: Mapping[str, Any], column: str, *, empty: bool = False) -> str:
    """A column's text, which must not be blank unless `empty`."""
    value = need(record, column)
    if not isinstance(value, str):
        raise ValueError(f"{column!r} must be text, not {type(value).__name__}.")
    value.encode()  # a ValueError if it holds half a character, a lone surrogate
    if not empty and not value.strip():
        raise ValueError(f"{column!r} is an empty text.")
    return value


def optional_text(record: Mapping[str, Any], column: str) -> str:
    """A column's text, empty where there is none."""
    return text(record, column, empty=True) if record.get(column) is not None else ""


def label(record: Mapping[str, Any], column: str = "label") -> str:
    """A class as text: a string without the white space around it, a whole number as its digits
    (1.0 is `1`), a truth value as `true` or `false`."""
    value = need(record, column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(
            f"{column!r} must be a class (text, whole number or truth value), not {brief(value)}."
        )
    return text(record, column).strip()


def first_of(record: Mapping[str, Any], *columns: str) -> str:
    """The first of these columns that there is, else the first of them."""
    return next((column for column in columns if column in record), columns[0])
