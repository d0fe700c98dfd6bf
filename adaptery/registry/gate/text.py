"""Texts that come with an adapter: read within limits, and shown so that they cannot do harm."""

import json
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adaptery.errors import InvalidAdapter, brief

MAX_TEXT = 1 << 20  # bytes of a configuration or a template
_MAX_NAMES = 10
_MAX_DEPTH = 32


def strict_json(data: bytes, what: str) -> Any:
    """The value of a UTF-8 JSON text in which no key comes twice and no number is NaN or infinite.

    Raises:
        InvalidAdapter: it is not such a text, or nests deeper than 32 levels, or has half a
            surrogate pair in it, which no file or terminal can hold. The message begins with
            `what`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {brief(twice)} comes twice")
        return found

    def finite(text: str) -> float:
        raise ValueError(f"{text} is not a finite number")

    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=unique, parse_constant=finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{what} is not valid JSON: {error}.") from error
    if _depth(value) > _MAX_DEPTH:
        raise InvalidAdapter(f"{what} nests deeper than {_MAX_DEPTH} levels.")
    return value


def _depth(value: Any) -> int:
    """How deep lists and objects nest; counted no further than matters."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        level, depth = inner, depth + 1
    return depth


def listed(names: Iterable[str]) -> str:
    """File names as a message lists them; those with control characters are quoted."""
    known = sorted(names)
    shown = [name if name.isprintable() else repr(name) for name in known[:_MAX_NAMES]]
    more = [f"{len(known) - _MAX_NAMES} more"] if len(known) > _MAX_NAMES else []
    return ", ".join([*shown, *more])


def read_text(path: Path, limit: int = MAX_TEXT) -> bytes:
    """The bytes of a small file.

    Raises:
        InvalidAdapter: it is larger than `limit` bytes.
    """
    if path.stat().st_size > limit:
        raise InvalidAdapter(f"{path.name} is larger than {limit} bytes.")
    return path.read_bytes()


def is_plain_file(path: Path) -> bool:
    """Whether it is a file itself: no link to one, and nothing else that can be opened."""
    return stat.S_ISREG(path.lstat().st_mode)
