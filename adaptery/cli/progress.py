"""Progress on stderr: bars on a terminal, a line per phase elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bars:
    """A `Watcher` that draws a bar per phase.

    Use it as a context manager, so that the terminal is left in order whatever happens.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.figures: dict[str, float] = {}
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
        if not self.console.is_terminal:
            self.console.print(f"{title} ({total}) …")
        self.task = self.progress.add_task(title, total=total, figures="")

    def advance(self, pieces: int = 1, **figures: float) -> None:
        text = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
        self.progress.update(self.task, advance=pieces, figures=text)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True)
