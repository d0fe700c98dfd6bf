"""What a deed works on, made anew for every point, and what must hold of it afterwards."""

import gc
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptery.registry.base import Registry
from tests.torture.deeds import DEEDS, DONE, registry
from tests.torture.tracing import Call, Outcome, Template


@dataclass(frozen=True)
class State:
    """All that can be seen in a registry, but for times."""

    versions: tuple[Any, ...]
    aliases: tuple[Any, ...]
    events: tuple[Any, ...]

    @classmethod
    def of(cls, registry: Registry) -> "State":
        versions = registry.versions()
        names = sorted({version.name for version in versions})
        return cls(
            tuple((version.name, version.number, version.digest) for version in versions),
            tuple(registry.aliases()),
            tuple(_timeless(event) for name in names for event in registry.history(name)),
        )


class Arena:
    """A deed's starting point, and a fresh copy of it for every try."""

    def __init__(self, deed: str, template: Template, directory: Path) -> None:
        self.deed, self.template = deed, template
        self.path = directory / "arena"
        self._start = directory / "start"
        self._start.mkdir()
        DEEDS[deed].prepare(self._start)
        gc.collect()  # closes the catalogue, so that every copy is of the same files
        self.fresh()
        self.old = State.of(registry(self.path))
        assert template.warm(deed, self.path).status == 0
        self.new = State.of(registry(self.path))
        assert self.old != self.new

    def fresh(self) -> Path:
        """The starting point once more, hard links and times included."""
        shutil.rmtree(self.path, ignore_errors=True)
        subprocess.run(["cp", "-a", self._start, self.path], check=True)
        return self.path

    def calls(self, *names: str) -> list[Call]:
        """What the undisturbed deed asks of the kernel."""
        outcome = self.template.count(self.deed, self.fresh(), *([names] if names else []))
        assert (outcome.status, outcome.stdout) == (0, f"{DONE}\n"), outcome.stderr
        return list(outcome.calls)

    def assert_whole(self, outcome: Outcome) -> State:
        """The old state or the new one, every byte of every version there; the new if promised."""
        opened = registry(self.path)
        found = State.of(opened)
        assert found in (self.old, self.new)
        if DONE in outcome.stdout:
            assert found == self.new, "acknowledged, but lost"
        for version in opened.versions():
            opened.materialize(version)
        return found

    def assert_repeatable(self, found: State) -> None:
        """The deed can be done now, or once more if it was done."""
        status = DEEDS[self.deed].perform(self.path)
        if found == self.old or DEEDS[self.deed].repeatable:
            assert status == 0
            assert State.of(registry(self.path)) == self.new
        for version in registry(self.path).versions():
            registry(self.path).materialize(version)


def _timeless(event: Any) -> tuple[Any, ...]:
    return (
        event.id, event.adapter, event.kind, event.number, event.alias, event.previous,
        event.generation, event.reason,
    )  # fmt: skip
