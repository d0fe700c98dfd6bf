"""Regular expressions in an adapter's configuration, and which of them cannot hang a matcher.

PEFT reads `target_modules` (as one text), `exclude_modules`, `layers_pattern` and the keys of
`rank_pattern` and `alpha_pattern` as regular expressions, and so do engines. Python's matcher
tries every way of dividing a name among a pattern's parts, which can take longer than anybody
lives. What is let through is what can be counted and is few:

- characters, classes, `.`, `\\d`, anchors, groups, look-around and alternatives as usual;
- `*`, `+`, `?` and `{m,n}` after a single character or class; after a group only `?` or `{n}`;
- at most 1,000 characters, and at most 2²² ways of matching a name of 64 characters, which is
  four `.*` in a row.
"""

import re
from collections.abc import Iterable
from math import comb, prod
from re import _constants as op  # type: ignore[attr-defined]  # Python's own reading of a pattern:
from re import _parser as parser  # type: ignore[attr-defined]  # another's could differ from it.
from typing import Any, NamedTuple

from adaptery.errors import InvalidAdapter

NAME_LENGTH = 64  # characters; as long as the names of modules are
_MAX_LENGTH = 1000
_MAX_WAYS = 1 << 22
_SINGLE = {op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN}


class _Choices(NamedTuple):
    """`loops` parts of any length one after the other, and so many ways beside."""

    factor: int = 1
    loops: int = 0

    def ways(self, length: int) -> int:
        """Of dividing `length` characters among the loops, their order being given."""
        return self.factor * comb(length + self.loops, self.loops)


def check_pattern(pattern: str, what: str) -> None:
    """Raises `InvalidAdapter` if matching `pattern` is not known to be quick."""
    if len(pattern) > _MAX_LENGTH:
        raise InvalidAdapter(
            f"{what} has {len(pattern)} characters; at most {_MAX_LENGTH} are matched."
        )
    if not pattern.isascii() or not pattern.isprintable():
        raise InvalidAdapter(f"{what} {pattern!r} holds a character that no module's name has.")
    found = ways(pattern, NAME_LENGTH, what)
    if found > _MAX_WAYS:
        raise InvalidAdapter(
            f"{what} {pattern!r} can match a name of {NAME_LENGTH} characters in {found} ways; "
            f"at most {_MAX_WAYS} are tried. List the modules by name instead."
        )


def ways(pattern: str, length: int, what: str) -> int:
    """In how many ways `pattern` can match a name of `length` characters, or fail to: at most.

    Raises:
        InvalidAdapter: it is no pattern, or one whose ways are not counted.
    """
    try:
        parsed = parser.parse(pattern)
        if parsed.state.flags & ~re.UNICODE:
            raise ValueError("flags such as (?i) do not belong in it")
        return _sequence(parsed).ways(length)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise InvalidAdapter(f"{what} {pattern!r} cannot be used: {error}.") from error


def _sequence(parts: Iterable[tuple[Any, Any]]) -> _Choices:
    choices = [_choices(kind, value) for kind, value in parts]
    return _Choices(prod(c.factor for c in choices), sum(c.loops for c in choices))


def _choices(kind: Any, value: Any) -> _Choices:
    if kind in _SINGLE or kind is op.AT:
        return _Choices()
    if kind is op.SUBPATTERN and not value[1] and not value[2]:
        return _sequence(value[3])
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return _sequence(value[1])
    if kind is op.BRANCH:
        return _alternatives(value[1])
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        return _repeat(*value)
    raise ValueError(f"{str(kind).lower()} is not among what names of modules are matched with")


def _alternatives(branches: list[Any]) -> _Choices:
    if all(kind is op.LITERAL for branch in branches for kind, _ in branch):
        # Of plain words only those can fit in one place that begin one another.
        words = ["".join(chr(value) for _, value in branch) for branch in branches]
        return _Choices(max(sum(word.startswith(other) for other in words) for word in words))
    choices = [_sequence(branch) for branch in branches]
    return _Choices(sum(c.factor for c in choices), max(c.loops for c in choices))


def _repeat(least: int, most: int, part: Any) -> _Choices:
    inner = _sequence(part)
    if len(part) == 1 and part[0][0] in _SINGLE:
        return _Choices(loops=1) if most - least > NAME_LENGTH else _Choices(most - least + 1)
    if most == 1:
        return _Choices(inner.factor + 1, inner.loops)
    if least == most <= NAME_LENGTH:
        return _Choices(inner.factor**most, inner.loops * most)
    raise ValueError("a group may be repeated by ? or {n} only")
