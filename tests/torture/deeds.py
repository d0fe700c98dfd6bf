"""What is killed and starved: each deed with what is there before it, and how it is done.

An arena is a directory that holds all that a deed works on: the registry in `registry` (or its
address in `url`), adapters in `made`, other registries beside them. `prepare` fills one; copies of
it are used up by `perform`, which is the command itself and ends with the command's exit status.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from adaptery.cli.main import fail
from adaptery.cli.main import run as adapters
from adaptery.errors import AdapteryError
from adaptery.plugins.manager import PluginManager
from adaptery.registry.base import Registry
from adaptery.registry.carry.bundle import bundle
from adaptery.registry.hub.registry import HubRegistry
from adaptery.registry.sql.revisions import upgrade
from adaptery.registry.sql.sqlite import SqliteDatabase
from adaptery.types import AdapterPackage, AdapterRef
from tests.adapters import make_adapter, package

TWO, PACKAGES = AdapterRef.parse("support@2"), (1, 2)


@dataclass(frozen=True)
class Deed:
    """`perform` prints something when it is done, and only then: its acknowledgement.

    `repeatable`: doing it once more changes nothing. `piecewise`: it is many changes, one after the
    other. `visible`: versions, aliases or history are others afterwards.
    """

    prepare: Callable[[Path], None]
    perform: Callable[[Path], int]
    repeatable: bool = True
    piecewise: bool = False
    visible: bool = True


def url(arena: Path, name: str = "registry") -> str:
    address = arena / "url"
    return address.read_text() if address.exists() else str(arena / name)


def registry(arena: Path, name: str = "registry") -> Registry:
    return PluginManager().open_registry(url(arena, name))


def other(arena: Path) -> Registry:
    return PluginManager().open_registry(str(arena / "other"))


def make(arena: Path) -> list[AdapterPackage]:
    return [make_adapter(arena / "made" / str(seed), seed=seed) for seed in PACKAGES]


def made(arena: Path, seed: int) -> AdapterPackage:
    return package(arena / "made" / str(seed), seed=seed, metrics={})


def command(*arguments: str) -> Callable[[Path], int]:
    """`adapters …` on the arena's registry. `{arena}` in an argument is where the arena is."""

    def perform(arena: Path) -> int:
        given = [argument.replace("{arena}", str(arena)) for argument in arguments]
        return adapters([*given, "--registry", url(arena)])

    return perform


def call(act: Callable[[Path], object]) -> Callable[[Path], int]:
    """`act` as a command: what it returns is printed, and its errors are as those of commands."""

    def perform(arena: Path) -> int:
        try:
            print(act(arena), flush=True)
        except AdapteryError as error:
            return fail(error, error.exit_code)
        except OSError as error:
            return fail(f"The operating system refused: {error}.", 1)
        return 0

    return perform


def nothing(arena: Path) -> None:
    make(arena)


def one(arena: Path) -> None:
    registry(arena).publish("support", make(arena)[0])


def two(arena: Path) -> None:
    for made in make(arena):
        version = registry(arena).publish("support", made)
    registry(arena).materialize(version)


def two_promoted(arena: Path) -> None:
    two(arena)
    registry(arena).promote(TWO, reason="better")


def elsewhere(arena: Path) -> None:
    for made in make(arena):
        other(arena).publish("support", made)
    other(arena).promote(TWO, reason="better")


def on_the_hub(arena: Path) -> None:
    for made in make(arena):
        HubRegistry.open("hf://org").publish("support", made)


def bundled(arena: Path) -> None:
    elsewhere(arena)
    bundle(other(arena), TWO, arena / "support-2.tar")


def littered(arena: Path) -> None:
    """Two versions, a checkout, and beside them what a killed publish and a dead one left."""
    two(arena)
    store = registry(arena)._cache
    stray = make_adapter(arena / "made" / "stray", seed=9)
    for file in stray.manifest.files:
        store.add(stray.directory / file.path, file.sha256)
    unfinished = arena / "registry" / "tmp" / "left"
    unfinished.mkdir(parents=True)
    (unfinished / "half").write_bytes(b"x" * 100)
    for path in (unfinished / "half", unfinished):
        os.utime(path, (0, time.time() - 1e6))


def of_the_first_release(arena: Path) -> None:
    """A catalogue with the first release's tables, filled as it filled them."""
    make(arena)
    (arena / "registry").mkdir()
    database = SqliteDatabase(arena / "registry" / "catalogue.sqlite3")
    with database._begin() as connection:
        upgrade(connection, "0001")
        for seed in PACKAGES:
            manifest = made(arena, seed).manifest
            row = {"n": seed, "digest": manifest.digest, "manifest": manifest.canonical().decode()}
            for statement in _FIRST_RELEASE:
                connection.execute(text(statement), row)
            for sha256 in {file.sha256 for file in manifest.files}:
                blob = text("INSERT INTO version_blobs VALUES ('support', :n, :sha256)")
                connection.execute(blob, {"n": seed, "sha256": sha256})
        connection.execute(text("INSERT INTO aliases VALUES ('support', 'live', 1, 1)"))
    database.close()
    for seed in PACKAGES:
        for file in made(arena, seed).manifest.files:
            registry(arena)._cache.add(made(arena, seed).directory / file.path, file.sha256)


_FIRST_RELEASE = (
    "INSERT INTO versions VALUES ('support', :n, :digest, :manifest, '2026-11-20T12:00:00', 'ada')",
    "INSERT INTO events (adapter, kind, number, alias, previous, generation, actor, at, reason) "
    "SELECT 'support', 'published', :n, CASE :n WHEN 1 THEN 'live' END, NULL, "
    "CASE :n WHEN 1 THEN 1 END, 'ada', '2026-11-20T12:00:00', ''",
)


def publish(seed: int) -> Callable[[Path], int]:
    return call(lambda arena: registry(arena).publish("support", made(arena, seed)))


PROMOTE = command("promote", "support@2", "--expect", "1", "--reason", "better")
ROLLBACK = command("rollback", "support", "--reason", "worse")

DEEDS = {
    "first publish": Deed(nothing, publish(1)),
    "second publish": Deed(one, publish(2)),
    "promote": Deed(two, PROMOTE, repeatable=False),
    "rollback": Deed(two_promoted, ROLLBACK, repeatable=False),
    "yank": Deed(two, command("yank", "support@2", "--reason", "bad"), repeatable=False),
    "pull from a directory": Deed(
        elsewhere, call(lambda arena: registry(arena).pull(other(arena), TWO))
    ),
    "unbundle": Deed(bundled, command("unbundle", "{arena}/support-2.tar")),
    "copy": Deed(
        elsewhere,
        call(lambda arena: other(arena).copy_to(registry(arena))),
        piecewise=True,
    ),
    "gc": Deed(littered, command("gc", "--grace", "0"), visible=False),
    "migrate": Deed(of_the_first_release, command("registry", "migrate")),
}
TEAM_DEEDS = {
    "first publish to a team": Deed(nothing, publish(1)),
    "second publish to a team": Deed(one, publish(2)),
    "promote in a team": Deed(two, PROMOTE, repeatable=False),
}
HUB_DEEDS = {
    "pull from the Hub": Deed(on_the_hub, command("pull", "hf://org/support@v2")),
}
ALL_DEEDS = DEEDS | TEAM_DEEDS | HUB_DEEDS
