"""Who is told how a run goes. The command line draws bars; tests and scripts may stay silent."""

from typing import Protocol


class Watcher(Protocol):
    """Hears of every phase of a run."""

    def phase(self, title: str, total: int) -> None:
        """A phase of `total` equal pieces begins; the one before has ended."""

    def advance(self, pieces: int = 1, **figures: float) -> None:
        """So many pieces more are done; `figures` are worth showing now."""

    def say(self, sentence: str) -> None:
        """Something worth a line."""


class Silent:
    """A watcher that shows nothing."""

    def phase(self, title: str, total: int) -> None: ...

    def advance(self, pieces: int = 1, **figures: float) -> None: ...

    def say(self, sentence: str) -> None: ...
