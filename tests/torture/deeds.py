"""What is killed and starved: each deed with what is there before it, and how it is done.

An arena is a directory that holds all that a deed works on: the registry in `registry`, adapters in
`made`, other registries beside them. `prepare` fills one; copies of it are used up by `perform`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adaptery.cli.main import fail
from adaptery.errors import AdapteryError
from adaptery.registry.local import LocalRegistry
from adaptery.registry.transfer import copy_version
from adaptery.types import AdapterRef
from tests.adapters import make_adapter, package

DONE = "done"


@dataclass(frozen=True)
class Deed:
    """`perform` acknowledges with the line `DONE` and returns the exit status of the command.

    `repeatable`: doing it once more after it was done changes nothing.
    """

    prepare: Callable[[Path], None]
    perform: Callable[[Path], int]
    repeatable: bool


def ref(text: str) -> AdapterRef:
    return AdapterRef.parse(text)


def registry(arena: Path) -> LocalRegistry:
    return LocalRegistry.open(str(arena / "registry"))


def other(arena: Path) -> LocalRegistry:
    return LocalRegistry.open(str(arena / "other"))


def made(arena: Path, seed: int):
    return make_adapter(arena / "made" / str(seed), seed=seed)


def command(act: Callable[[Path], object]) -> Callable[[Path], int]:
    """`act` as a command: it says when it is done, and its errors are sentences on stderr."""

    def perform(arena: Path) -> int:
        try:
            act(arena)
        except AdapteryError as error:
            return fail(error, error.exit_code)
        except OSError as error:
            return fail(f"The operating system refused: {error}.", 1)
        print(DONE, flush=True)
        return 0

    return perform


def nothing(arena: Path) -> None:
    made(arena, 1)


def one(arena: Path) -> None:
    registry(arena).publish("support", made(arena, 1))
    made(arena, 2)


def two(arena: Path) -> None:
    one(arena)
    registry(arena).publish("support", made(arena, 2))
    registry(arena).materialize(registry(arena).resolve(ref("support@1")))


def two_promoted(arena: Path) -> None:
    two(arena)
    registry(arena).promote(ref("support@2"), reason="better")


def elsewhere(arena: Path) -> None:
    for seed in (1, 2):
        other(arena).publish("support", made(arena, seed))


def publish(seed: int) -> Callable[[Path], object]:
    def act(arena: Path) -> object:
        directory = arena / "made" / str(seed)
        return registry(arena).publish("support", package(directory, seed=seed, metrics={}))

    return act


def promote(arena: Path) -> object:
    return registry(arena).promote(ref("support@2"), expect=1, reason="better")


def rollback(arena: Path) -> object:
    return registry(arena).rollback("support", reason="worse")


def pull(arena: Path) -> object:
    return copy_version(other(arena), ref("support@2"), registry(arena))


DEEDS = {
    "first publish": Deed(nothing, command(publish(1)), repeatable=True),
    "second publish": Deed(one, command(publish(2)), repeatable=True),
    "promote": Deed(two, command(promote), repeatable=False),
    "rollback": Deed(two_promoted, command(rollback), repeatable=False),
    "pull from a directory": Deed(elsewhere, command(pull), repeatable=True),
}
