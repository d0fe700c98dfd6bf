"""Files of rows, written and read in a line."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptery.errors import DataError
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.config import DataConfig
from adaptery.trainers.data.reading import read_rows
from adaptery.trainers.data.rows import Dataset, Format

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
GOOD = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'


@functools.cache
def formats() -> Mapping[str, Format]:
    """The built-in ones."""
    return PluginManager(entry_points=[]).load_all("data_formats")


def read(source: Path | str, **settings: Any) -> Dataset:
    """Read with options of `data`."""
    return read_rows(str(source), DataConfig(train=str(source), **settings), formats())


def complaint(source: Path | str, **settings: Any) -> str:
    """What the refusal to read says."""
    with pytest.raises(DataError) as error:
        read(source, **settings)
    return str(error.value)


def write(path: Path, *lines: str) -> Path:
    """Lines without one at the end, as bytes."""
    path.write_bytes("\n".join(lines).encode())
    return path


def write_json(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def one(folder: Path, record: Mapping[str, Any], **settings: Any) -> Dataset:
    """The data set of a single record."""
    return read(write_json(folder / "one.jsonl", [record]), **settings)
