"""Progress on stderr: bars on a terminal, a line now and then elsewhere."""

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

LINES = 10  # plain ones in a phase that has figures to show
MOST_PIECES = 200  # of a long phase between two plain lines


class Bars:
    """A `Watcher` that draws a bar per phase.

    Use it as a context manager, so that the terminal is left in order whatever happens.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.figures: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.lines = Lines(self.say)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def phase(self, title: str, total: int) -> None:
        self.figures = {}
        self.lines.begin(total)
        if title in self.tasks:
            self.task = self.tasks[title]
            self.progress.reset(self.task, total=total, figures="")
            return
        if not self.console.is_terminal:
            self.say(f"{title} ({total}) …")
        self.task = self.tasks[title] = self.progress.add_task(title, total=total, figures="")

    def advance(self, pieces: int = 1, **figures: float) -> None:
        self.figures |= figures  # those that are measured now and then stay until the next time
        text = "  ".join(shown(self.figures))
        self.progress.update(self.task, advance=pieces, figures=text)
        if not self.console.is_terminal:
            self.lines.advance(pieces, text if figures else "")

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True)


class Lines:
    """The plain lines of a phase, where no bar can be drawn."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def begin(self, total: int) -> None:
        """A phase begins, or goes on where the next `advance` without figures puts it."""
        self.total, self.done, self.timed = total, 0, 0
        self.every = max(1, min(math.ceil(total / LINES), MOST_PIECES))
        self.since = time.monotonic()

    def advance(self, pieces: int, figures: str) -> None:
        """Count pieces, and write a line where one is due and there are figures for it."""
        before, self.done = self.done, self.done + pieces
        if not figures:
            self.since = time.monotonic()  # a resumed run did those earlier
            return
        self.timed += pieces
        if self.done // self.every > before // self.every or self.done == self.total:
            self.say(f"{self.done}/{self.total}  {figures}  {self.left()}")

    def left(self) -> str:
        """How long it will go on at this pace."""
        seconds = (time.monotonic() - self.since) / max(1, self.timed) * (self.total - self.done)
        return f"{duration(seconds)} left" if self.done < self.total else "done"


FORMATS: dict[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4g}",
    "learning_rate": lambda value: f"rate {value:.3g}",
    "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
    "memory_bytes": lambda value: f"{value / 1e9:.2f} GB",
}


def shown(figures: dict[str, float]) -> list[str]:
    """The figures that a line has room for, those of training in their order."""
    return [write(figures[name]) for name, write in FORMATS.items() if name in figures]


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(42), duration(150), duration(7300)
    ('42 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
