"""How long a run's parts take, how much memory they hold, and how far it is: kept in its folder.

The process that trains writes; the one that started it reads, and shows it.
"""

import json
import time
from pathlib import Path
from typing import Any

from adaptery.trainers.memory import forget_peak, memory_in_use, peak_memory
from adaptery.trainers.watching.watcher import Silent

FILE = "progress.json"
READING, TRAINING = "reading rows", "training"
BETWEEN = 0.5  # seconds between two looks of whoever reads


class Clock(Silent):
    """A `Watcher` that adds up seconds by phase, also over a run's several sittings."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        known = read_progress(folder)
        self.seconds: dict[str, float] = known.get("seconds", {})
        self.peak: int = known.get("peak", 0)
        self.loaded: int | None = known.get("loaded")
        self.title, self.total, self.done = "starting", 0, 0
        self.figures: dict[str, float] = {}
        self.last = self.written = time.monotonic()

    def phase(self, title: str, total: int) -> None:
        self._tick()
        if title != READING and self.loaded is None:
            self.loaded = memory_now()
        if title == TRAINING and self.title != TRAINING:
            forget_peak()  # of evaluation, whose batches are larger
        self.title, self.total, self.done, self.figures = title, total, 0, {}
        self.write()

    def advance(self, pieces: int = 1, **figures: float) -> None:
        self._tick()
        if self.title == TRAINING:
            self.peak = max(self.peak, peak_memory())
        self.done += pieces
        self.figures = figures or self.figures
        if self.last - self.written > BETWEEN:
            self.write()

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds[self.title] = self.seconds.get(self.title, 0.0) + now - self.last
        self.last = now

    def write(self) -> None:
        """Keep all of it, so that the next sitting goes on from there."""
        self._tick()
        self.written = self.last
        names = ("title", "total", "done", "figures", "seconds", "peak", "loaded")
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({name: getattr(self, name) for name in names}))
        partial.replace(self.path)

    @property
    def training(self) -> float:
        """Seconds of optimizer steps; neither loading nor evaluation."""
        return self.seconds.get(TRAINING, 0.0)


def read_progress(folder: Path) -> dict[str, Any]:
    """What the clock of a folder says; nothing before it first ticked."""
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found


def memory_now() -> int:
    """Bytes held at this moment: by the GPU's allocator, or by the process where there is none."""
    import torch

    return memory_in_use(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
