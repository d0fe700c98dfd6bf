"""Many processes at one registry at once, and what must hold of it afterwards."""

import multiprocessing
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from adaptery.errors import Conflict
from adaptery.plugins.manager import PluginManager
from adaptery.registry.base import Registry
from adaptery.types import AdapterRef, Version
from tests.adapters import make_adapter

NAME = "support"
# A forked process starts in milliseconds, and shares nothing that is opened after the fork.
_fork = multiprocessing.get_context("fork")


def open_registry(url: str) -> Registry:
    return PluginManager().open_registry(url)


def run(act: Callable[..., None], each: Iterable[tuple[Any, ...]]) -> None:
    """`act` in a process for each of the arguments, all at once; every one must succeed."""
    processes = [_fork.Process(target=act, args=arguments) for arguments in each]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    # What went wrong in a process, it has written to standard error.
    assert [process.exitcode for process in processes] == [0] * len(processes)


def publish_some(url: str, directory: Path, first: int, count: int) -> None:
    """Publish `count` versions, and let `canary` mean every fifth."""
    registry = open_registry(url)
    for seed in range(first, first + count):
        version = registry.publish(NAME, make_adapter(directory / str(seed), seed=seed))
        if seed % 5 == 0:
            promote_whatever_happens(registry, version)


def promote_whatever_happens(registry: Registry, version: Version) -> None:
    """As a person would who is told that somebody else was quicker: look, and try again."""
    while True:
        try:
            registry.promote(AdapterRef(NAME, number=version.number), "canary")
            return
        except Conflict:
            time.sleep(0.01)


def assert_nothing_lost(registry: Registry, seeds: set[int]) -> None:
    """A version for each seed, numbered without a gap, every byte there, and one linear history."""
    versions = registry.versions(NAME)
    assert [version.number for version in versions] == list(range(1, len(seeds) + 1))
    assert {version.manifest.seed for version in versions} == seeds
    assert list(registry.fsck()) == []
    assert_linear(registry)


def assert_linear(registry: Registry) -> None:
    """Every move of an alias starts from where the move before it ended."""
    events = registry.history(NAME)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    for alias in ("live", "canary"):
        moves = [event for event in events if event.alias == alias]
        assert moves, f"{alias} never moved"
        assert [move.generation for move in moves] == list(range(1, len(moves) + 1))
        assert moves[0].previous is None
        assert all(later.previous == earlier.number for earlier, later in pairwise(moves))
