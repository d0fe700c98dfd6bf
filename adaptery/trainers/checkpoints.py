"""A run's checkpoints: each whole or not there, whenever the process is killed."""

import os
import warnings
from pathlib import Path
from typing import Any

from adaptery.errors import ConfigError

PREFIX, SUFFIX = "checkpoint-", ".pt"


class Checkpoints:
    """`checkpoint-<step>.pt` of the last `keep` saves, and of the best step of each of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keep = folder, 1
        self.bests: dict[int, int | None] = {}
        """The best step as each of the checkpoints knew it."""

    def path(self, step: int) -> Path:
        return self.folder / f"{PREFIX}{step}{SUFFIX}"

    def steps(self) -> list[int]:
        """Those that are there, in order."""
        names = (path.stem.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*{SUFFIX}"))
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, best: int | None, state: dict[str, Any]) -> None:
        """Write one, then remove those that are no longer needed.

        It appears under its name when all of it is on the disk; a crash leaves what was there.
        """
        import torch

        self.bests[step] = best
        path = self.path(step)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state | {"bests": dict(self.bests)}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(self.folder)
        self.clear()

    def clear(self) -> None:
        """Remove all but the last ones and their bests."""
        last = sorted(self.bests)[-self.keep :]
        self.bests = {step: self.bests[step] for step in last}
        needed = {*last, *self.bests.values()}
        for step in self.steps():
            if step not in needed:
                self.path(step).unlink()
        for partial in self.folder.glob(f"{PREFIX}*.partial"):
            partial.unlink()

    def load(self, step: int) -> dict[str, Any]:
        """The one of a step. Nothing in it is executed.

        Raises:
            ConfigError: it cannot be read.
        """
        import torch

        path = self.path(step)
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise ConfigError(
                f"The checkpoint {path} cannot be read ({type(error).__name__}): it is torn, or "
                "not one of ours."
            ) from error
        return state

    def newest(self) -> dict[str, Any]:
        """The last that can be read; later ones, torn by a failing disk, are passed over.

        Raises:
            ConfigError: there is none, or none can be read.
        """
        steps = self.steps()
        if not steps:
            raise ConfigError(f"{self.folder} has no checkpoint to go on from; start the run anew.")
        for step in reversed(steps[1:]):
            try:
                return self.take(step)
            except ConfigError as error:
                warnings.warn(f"{error} The one before it serves.", stacklevel=2)
        return self.take(steps[0])

    def take(self, step: int) -> dict[str, Any]:
        """Load one to go on from, and know what was known then."""
        state = self.load(step)
        self.bests = {known: best for known, best in state["bests"].items() if known <= step}
        return state


def sync(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
