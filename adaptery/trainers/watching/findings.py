"""What an alarm says: the symptom with its numbers, the likely cause, the option to change."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaptery.errors import join
from adaptery.trainers.watching.history import History

# Above these peak rates a method is used outside of what is known to work (arXiv:2106.09685,
# arXiv:2402.12354 and the field's recipes); only a run that went wrong is told so.
HIGHEST_RATE = {"full": 1e-4, "adalora": 5e-3, "loraplus": 5e-4, "pissa": 5e-4, "olora": 5e-4}
HIGHEST_RATE_OF_ADAPTERS = 2e-3


@dataclass(frozen=True)
class Change:
    """One option and what to try in its place."""

    option: str
    now: Any
    better: Any

    def __str__(self) -> str:
        return f"{self.option}: {written(self.now)} → {written(self.better)}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run."""

    alarm: str
    step: int
    symptom: str
    cause: str
    changes: tuple[Change, ...] = ()
    advice: str = ""
    """A remedy that is no option."""

    def __str__(self) -> str:
        ways = [f"`{change}`" for change in self.changes] + ([self.advice] if self.advice else [])
        return join(self.symptom, self.cause, f"Try {' or '.join(ways)}." if ways else "")

    @property
    def data(self) -> dict[str, Any]:
        """For scripts."""
        changes = [asdict(change) for change in self.changes]
        return asdict(self) | {"changes": changes, "sentence": str(self)}


def written(value: Any) -> str:
    """A value as it stands in a configuration."""
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def highest_rate(history: History) -> float:
    """The most that the run's method usually bears."""
    return HIGHEST_RATE.get(history.settings.method, HIGHEST_RATE_OF_ADAPTERS)


def too_high(history: History) -> tuple[str, tuple[Change, ...]]:
    """Cause and remedies where steps were too large: in most unstable runs, the rate."""
    training, peak = history.settings.training, history.peak_rate
    highest = highest_rate(history)
    changes: list[Change] = []
    if peak > highest:
        cause = (
            f"The learning rate's peak of {written(peak)} is {peak / highest:.0f} times the most "
            f"that {history.settings.method} usually bears."
        )
        changes.append(Change("training.learning_rate", peak, highest / 4))
    else:
        cause = f"Steps are too large at a learning rate of {written(peak)}."
        changes.append(Change("training.learning_rate", peak, peak / 2))
    if not training.warmup:
        cause += " It stood at its peak from the first step: there is no warm-up."
        changes.append(Change("training.warmup", 0.0, 0.05))
    if training.max_grad_norm > 1:
        changes.append(Change("training.max_grad_norm", training.max_grad_norm, 1.0))
    return cause, tuple(changes)


def less_fitting(history: History, epochs: float | None = None) -> tuple[Change, ...]:
    """Remedies where the training rows are learnt by heart."""
    settings = history.settings
    changes: list[Change] = []
    if epochs and epochs < settings.training.epochs:
        changes.append(Change("training.epochs", settings.training.epochs, max(1, round(epochs))))
    if settings.lora.dropout < 0.1 and settings.method != "full":
        changes.append(Change("lora.dropout", settings.lora.dropout, 0.1))
    if history.peak_rate:
        changes.append(Change("training.learning_rate", history.peak_rate, history.peak_rate / 2))
    return tuple(changes)


def blocks(values: Sequence[float], size: int) -> list[Sequence[float]]:
    """Consecutive pieces of `size`; what is left over at the beginning is left out."""
    start = len(values) % size
    return [values[i : i + size] for i in range(start, len(values), size)]
