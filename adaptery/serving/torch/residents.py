"""The adapters that have a place in memory, and whom a newcomer may send away."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from adaptery.serving.torch.lora import Adapter

Marks = tuple[tuple[str, int, int, int, int], ...]


class AdapterFile(Protocol):
    """An adapter of which declaration and header are read and checked, and the tensors are not."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""

    def read(self) -> Adapter:
        """Its tensors. Raises `InvalidAdapter`."""


@dataclass(eq=False)
class Entry:
    """A version that is known, or on the way to be, and what is going on with it."""

    name: str
    directory: Path
    registration: "Future[None]" = field(default_factory=Future)
    registered: bool = False  # it has been read in full once
    file: AdapterFile | None = None  # opened, and waiting for room
    nbytes: int = 0  # known once it was opened
    marks: Marks = ()
    adapter: Adapter | None = None
    users: int = 0
    reading: bool = False
    forgotten: bool = False
    error: Exception | None = None

    @property
    def known(self) -> bool:
        """Whether it can be acquired."""
        return self.registered and not self.forgotten


class Residents:
    """At most `limit` versions of `budget` bytes together, least recently used first.

    A version has its place from the moment when its reading is decided.
    """

    def __init__(self, budget: int, limit: int) -> None:
        self.budget = budget
        self.nbytes = 0
        self._limit = limit
        self._entries: dict[Entry, None] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __contains__(self, entry: object) -> bool:
        return entry in self._entries

    @property
    def idle(self) -> list[Entry]:
        """Those that are in memory and nobody uses."""
        return [entry for entry in self._entries if entry.adapter is not None and not entry.users]

    @property
    def used(self) -> bool:
        """Whether somebody uses any."""
        return any(entry.users for entry in self._entries)

    def touch(self, entry: Entry) -> None:
        """It is the most recently used one."""
        if entry in self._entries:
            self._entries[entry] = self._entries.pop(entry)

    def leave(self, entry: Entry) -> None:
        """Its tensors go, and its place is free."""
        entry.adapter = None
        if entry in self._entries:
            del self._entries[entry]
            self.nbytes -= entry.nbytes

    def fits_beside(self, entry: Entry, others: Iterable[Entry]) -> bool:
        """Whether there would be room for `entry` if there were only `others`."""
        sizes = [other.nbytes for other in others]
        return sum(sizes) + entry.nbytes <= self.budget and len(sizes) < self._limit

    def take(self, entry: Entry, movable: Iterable[Entry]) -> bool:
        """Give `entry` a place if enough of those `movable` can go for it, the first ones first."""
        going: list[Entry] = []
        candidates = iter(movable)
        size, count = self.nbytes + entry.nbytes, len(self._entries) + 1
        while size > self.budget or count > self._limit:
            other = next(candidates, None)
            if other is None:
                return False
            going.append(other)
            size, count = size - other.nbytes, count - 1
        for other in going:
            self.leave(other)
        self._entries[entry] = None
        self.nbytes += entry.nbytes
        return True


def marks_of(directory: Path) -> Marks:
    """By what it is seen that a file in `directory` is another one now, or was written to."""
    with os.scandir(directory) as files:
        stats = [(file.name, file.stat()) for file in files]
    return tuple(sorted((name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats))
