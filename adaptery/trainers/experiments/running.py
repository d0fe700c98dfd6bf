"""One run in a process of its own, shown while it goes, taken up where it was left."""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptery.config import Resolved
from adaptery.errors import ConfigError, DataError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.child import INTERRUPTED, Child, killed, why_killed
from adaptery.trainers.experiments.clock import read_progress
from adaptery.trainers.experiments.outcome import FILE, Outcome
from adaptery.trainers.experiments.variations import changed
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.watcher import Watcher

RUNS = "run"  # where in a folder its run directories are
CALIBRATION = "calibration.txt"  # the name of rows for calibration, if there are any


def run_in(
    folder: Path,
    config: Resolved[RunConfig],
    command: Sequence[str],
    watcher: Watcher,
    look: Callable[[], bool] = lambda: True,
    calibration: Path | None = None,
) -> Outcome | None:
    """What became of the run of `config` in `folder`; None if `look` stopped it.

    A run that is over is not run again, and one that was left is gone on with.

    Args:
        command: what starts a process that trains in the folder given to it.
        look: called now and then while it runs.
        calibration: rows that it is to answer too.

    Raises:
        DataError: its rows must not be trained on.
        KeyboardInterrupt: by the user; the run was left with a checkpoint.
    """
    known = Outcome.read(folder)
    if known and known.over:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    if calibration:
        (folder / CALIBRATION).write_text(str(calibration), encoding="utf-8")
    RunDirectory(folder).write_config(changed(config, {"runs": str(folder / RUNS)}, "experiment"))
    child, mirror = Child(command, folder), Mirror(folder, watcher)
    code = child.wait(lambda: mirror.look() or look())
    outcome = Outcome.read(folder)
    if code == DataError.exit_code:
        raise DataError(outcome.sentence if outcome else child.last_words())
    if outcome is None and code in (INTERRUPTED, -15):
        return None
    if outcome is None:
        sentence = why_killed(code) if killed(code) else child.last_words()
        outcome = Outcome(status="failed", sentence=f"{sentence} Its log: {folder / 'log.txt'}")
        outcome.write(folder)
    return outcome


class Mirror:
    """Shows here what a run in another process says of itself."""

    def __init__(self, folder: Path, watcher: Watcher) -> None:
        self.folder, self.watcher = folder, watcher
        self.shown: tuple[str, int] | None = None
        self.done = 0

    def look(self) -> bool:
        """Show what is new. Returns False, so that `or` goes on to the next one who looks."""
        said = read_progress(self.folder)
        if not said:
            return False
        phase = (said["title"], said["total"])
        if phase != self.shown and said["total"]:
            self.shown, self.done = phase, 0
            self.watcher.phase(f"  {said['title']}", said["total"])
        if phase == self.shown and said["done"] > self.done:
            self.watcher.advance(said["done"] - self.done, **said["figures"])
            self.done = said["done"]
        return False


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What the run in a folder has said of its steps so far."""
    runs = sorted((folder / RUNS).glob("*"))
    return RunDirectory(runs[-1]).metrics() if runs else []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep another process on this machine out of a folder.

    Raises:
        ConfigError: one is in there, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"The folder {folder} cannot be used: {error}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"Another process is at work in {folder}. Wait for it, or give another --output."
            ) from error
        yield
