"""A row of a table from the runs of a variation: means, spreads, and what went wrong."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from adaptery.errors import UnknownName
from adaptery.trainers.evaluation.scoring import LOSSES
from adaptery.trainers.evaluation.verdict import headline
from adaptery.trainers.experiments.experiment import Run
from adaptery.trainers.experiments.outcome import Measured

FIRST = ("accuracy", "macro_f1")  # of the metrics, in the notes' order


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, and their standard deviation where there are several."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """That of at least one value."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread)

    def told(self, form: Callable[[float], str]) -> str:
        """As people read it."""
        return form(self.mean) + ("" if self.spread is None else f" ± {form(self.spread)}")


@dataclass(frozen=True)
class Row:
    """One variation with all its seeds."""

    name: str
    shown: dict[str, str]
    runs: Sequence[Run]

    @cached_property
    def finished(self) -> list[Run]:
        """The runs that ended well."""
        return [run for run in self.runs if run.outcome.status == "finished"]

    @property
    def status(self) -> str:
        """`finished`, or what became of the first run that was not."""
        others = [run.outcome for run in self.runs if run.outcome.status != "finished"]
        return others[0].status if others else "finished"

    @property
    def sentence(self) -> str:
        """What went wrong."""
        return next((run.outcome.sentence for run in self.runs if run.outcome.sentence), "")

    def measured(self) -> list[Measured]:
        return [run.outcome.measured for run in self.finished if run.outcome.measured]

    def figure(self, read: Callable[[Measured], float | None]) -> Figure | None:
        """A mean over the runs that ended well."""
        values = [read(measured) for measured in self.measured()]
        found = [value for value in values if value is not None]
        return Figure.of(found) if found else None

    def score(self, metric: str) -> Figure | None:
        """A metric's mean over seeds."""
        return self.figure(lambda measured: measured.metrics.get(metric))


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """One row per variation, in the order in which they were run."""
    names = dict.fromkeys(run.variation.name for run in runs)
    by_name = {name: [run for run in runs if run.variation.name == name] for name in names}
    return [Row(name, dict(own[0].variation.shown), own) for name, own in by_name.items()]


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Every metric that was measured of some run, the notes' first, losses last."""
    found = dict.fromkeys(
        name for row in rows for measured in row.measured() for name in measured.metrics
    )
    own = [name for name in found if not name.startswith("base.")]
    others = [name for name in own if name not in (*FIRST, *LOSSES)]
    return [*(name for name in FIRST if name in own), *others, *(["loss"] if "loss" in own else [])]


def deciding(metrics: Sequence[str], wanted: str | None) -> str | None:
    """The metric that says which row is best: the one asked for, or the headline of a verdict.

    Raises:
        UnknownName: the one asked for was not measured.
    """
    if wanted is not None and metrics and wanted not in metrics:
        raise UnknownName("measured metric", wanted, metrics)
    return (wanted or headline(metrics)) if metrics else None


def best_of(rows: Sequence[Row], metric: str) -> Row | None:
    """The row with the best mean of a metric, among those whose every run ended well."""
    sign = 1 if metric in LOSSES else -1
    scored = [
        (sign * score.mean, place)
        for place, row in enumerate(rows)
        if row.status == "finished" and (score := row.score(metric))
    ]
    return rows[min(scored)[1]] if scored else None
