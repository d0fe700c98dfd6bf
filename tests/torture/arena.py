"""What a deed works on, made anew for every point, and what must hold of it afterwards."""

import gc
import shutil
import sqlite3
import subprocess
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from adaptery.registry.base import Registry
from adaptery.registry.sql.schema import HEAD
from tests.peers.postgres import PostgresPeer
from tests.torture.deeds import ALL_DEEDS, registry
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

    def begins(self, other: "State") -> bool:
        """Whether `other` is this and perhaps more."""
        shown = zip((self.versions, self.events), (other.versions, other.events), strict=True)
        return all(ours == theirs[: len(ours)] for ours, theirs in shown)


class Arena:
    """A deed's starting point, and a fresh copy of it for every try."""

    def __init__(self, name: str, template: Template, directory: Path) -> None:
        self.name, self.deed, self.template = name, ALL_DEEDS[name], template
        self.path, self._start = directory / "arena", directory / "start"
        self.path.mkdir(exist_ok=True)
        self.deed.prepare(self.path)
        self._keep_start()
        self.fresh()
        self.old = self.state()
        warmed = template.warm(name, self.fresh())
        assert warmed.status == 0, warmed
        self.new = self.state()
        assert (self.old != self.new) == self.deed.visible

    def _keep_start(self) -> None:
        gc.collect()  # closes the catalogue, so that every copy is of the same files
        subprocess.run(["cp", "-a", self.path, self._start], check=True)

    def fresh(self) -> Path:
        """The starting point once more, hard links and times included."""
        shutil.rmtree(self.path, ignore_errors=True)
        subprocess.run(["cp", "-a", self._start, self.path], check=True)
        return self.path

    def calls(self, *names: str) -> list[Call]:
        """What the undisturbed deed asks of the kernel."""
        outcome = self.template.count(self.name, self.fresh(), *([names] if names else []))
        assert outcome.status == 0
        assert outcome.stdout
        return list(outcome.calls)

    def state(self) -> State | str:
        """What can be seen in the registry; of an older adaptery's catalogue, its schema."""
        catalogue = self.path / "registry" / "catalogue.sqlite3"
        if self.name == "migrate" and (schema := _schema(catalogue)) != HEAD:
            return schema
        return State.of(registry(self.path))

    def lost(self, outcome: Outcome) -> int:
        """How many versions are not there that were acknowledged, before or by this deed."""
        promised, found = self.new if outcome.stdout else self.old, self.state()
        if isinstance(promised, str):
            return 0
        there = () if isinstance(found, str) else found.versions
        return len(set(promised.versions) - set(there))

    def assert_whole(self, outcome: Outcome) -> bool:
        """The old state or the new one, and every byte of every version there.

        Returns whether it is the new one, which it must be if that was acknowledged.
        """
        found = self.state()
        done = found == self.new
        if not self.deed.piecewise:
            assert done or found == self.old
        elif isinstance(found, State) and isinstance(self.new, State):
            assert found.begins(self.new)
        if outcome.stdout:
            assert done, f"acknowledged, but lost: {outcome}"
        self._assert_sound(found)
        return done

    def assert_repeatable(self, done: bool) -> None:
        """The deed can be done now, or once more if it was done."""
        status = self.deed.perform(self.path)
        if not done or self.deed.repeatable:
            assert status == 0
            assert self.state() == self.new
        self._assert_sound(self.state())
        if self.name == "gc":
            left = registry(self.path).gc(grace=0, dry_run=True)
            assert (left.blobs, left.unfinished) == (0, 0)

    def _assert_sound(self, found: State | str) -> None:
        if isinstance(found, str):
            return  # an older adaptery's, as it was
        opened = registry(self.path)
        assert [str(finding) for finding in opened.fsck()] == []
        for version in opened.versions():
            opened.materialize(version)


class TeamArena(Arena):
    """The same with a team's registry: its database begins anew, too."""

    def __init__(
        self, name: str, template: Template, directory: Path, postgres: PostgresPeer
    ) -> None:
        self._postgres = postgres
        self._database = f"arena_{uuid.uuid4().hex}"
        address = postgres.create(self._database)
        (directory / "arena").mkdir()
        blobs = directory / "arena" / "blobs"
        (directory / "arena" / "url").write_text(f"{address}?blobs=file://{blobs}")
        super().__init__(name, template, directory)

    def _keep_start(self) -> None:
        super()._keep_start()
        self._execute(f"ALTER DATABASE {self._database} RENAME TO {self._database}_start")

    def fresh(self) -> Path:
        self._execute(f"DROP DATABASE IF EXISTS {self._database} WITH (FORCE)")
        self._execute(f"CREATE DATABASE {self._database} TEMPLATE {self._database}_start")
        return super().fresh()

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def _schema(catalogue: Path) -> str:
    with closing(sqlite3.connect(catalogue)) as connection:
        found: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return found


def _timeless(event: Any) -> tuple[Any, ...]:
    return (
        *(event.id, event.adapter, event.kind, event.number, event.alias, event.previous),
        *(event.generation, event.reason, event.data),
    )
