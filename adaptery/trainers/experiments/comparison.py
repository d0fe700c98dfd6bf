"""Whether one variation is better than another, or only luckier: a paired bootstrap over rows.

Held-out rows are drawn anew with replacement, the same ones for both sides, all seeds of a row
together; a difference whose 95 % interval holds zero could be chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adaptery.trainers.evaluation.scoring import LOSSES
from adaptery.trainers.experiments.answers import Said
from adaptery.trainers.experiments.cells import three, title
from adaptery.trainers.experiments.table import Row, best_of

if TYPE_CHECKING:
    from numpy import ndarray

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """How much `row` scores above `against`, and between what bounds that lies by chance."""

    row: str
    against: str
    metric: str
    difference: float
    low: float
    high: float

    @property
    def chance(self) -> bool:
        """Whether zero is within the bounds."""
        return self.low <= 0 <= self.high

    @property
    def told(self) -> str:
        """As people read it."""
        bounds = f"{self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f})"
        return f"{bounds}, may be chance" if self.chance else bounds

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "chance": self.chance, "level": LEVEL, "resamples": RESAMPLES}


def compare(row: Row, against: Row, metric: str, seed: int = 0) -> Difference | None:
    """The difference of two variations by a metric; None without answers to the same rows.

    `metric` is loss, accuracy or macro_f1; others cannot be had from rows drawn anew.
    """
    import numpy

    if metric not in SCORES:
        return None
    own, other = ([run.answers for run in side.finished] for side in (row, against))
    origins = [[said.origin for said in answers] for answers in (*own, *other)]
    if not own or not other or not origins[0] or any(o != origins[0] for o in origins):
        return None
    rows = len(origins[0])
    draws = numpy.random.default_rng(seed).multinomial(rows, [1 / rows] * rows, RESAMPLES)
    weights = numpy.vstack([numpy.ones(rows), draws])  # the rows as they are come first
    score = SCORES[metric]
    sides = [numpy.mean([score(answers, weights) for answers in side], 0) for side in (own, other)]
    differences = sides[0] - sides[1]
    low, high = numpy.quantile(differences[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(
        row.name, against.name, metric, float(differences[0]), float(low), float(high)
    )


def mean_loss(answers: Sequence[Said], weights: "ndarray") -> "ndarray":
    """Nats per token, for each of the weightings of the rows, shape (weightings,)."""
    import numpy

    losses = weights @ numpy.array([said.loss for said in answers])
    tokens = weights @ numpy.array([said.tokens for said in answers])
    quotient: ndarray = losses / tokens
    return quotient


def accuracy(answers: Sequence[Said], weights: "ndarray") -> "ndarray":
    """The share of rows that were told right, for each of the weightings."""
    import numpy

    right = numpy.array([said.text == said.reference for said in answers], float)
    share: ndarray = weights @ right / weights.sum(1)
    return share


def macro_f1(answers: Sequence[Said], weights: "ndarray") -> "ndarray":
    """The mean of the F1 of all classes that are told or true, for each of the weightings."""
    import numpy

    classes = sorted({said.reference for said in answers} | {said.text for said in answers})
    told, true = (
        numpy.array([[float(getattr(said, side) == name) for name in classes] for said in answers])
        for side in ("text", "reference")
    )
    right = 2 * weights @ (told * true)
    all_of = weights @ (told + true)  # a class that neither side has is no class of that draw
    f1 = numpy.divide(right, all_of, out=numpy.zeros_like(right), where=all_of > 0)
    mean: ndarray = f1.sum(1) / (all_of > 0).sum(1)
    return mean


SCORES: dict[str, Callable[[Sequence[Said], "ndarray"], "ndarray"]] = {
    "loss": mean_loss,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}


def verdict(rows: Sequence[Row], metric: str | None) -> str:
    """Which row is best, by how much, and whether that could be chance."""
    best = best_of(rows, metric) if metric else None
    if metric is None or best is None:
        return "Nothing was measured of these runs, so none of them is the best."
    score = best.score(metric)
    assert score is not None
    first = f"{best.name} has the best {title(metric)}: {score.told(three)}."
    second = best_of([row for row in rows if row is not best], metric)
    if second is None:
        return first
    lead = compare(best, second, metric)
    if lead is None:
        return f"{first} The next is {second.name}."
    sign = -1 if metric in LOSSES else 1
    low, high = sorted((sign * lead.low, sign * lead.high))
    said = f"{first} It is {abs(lead.difference):.3f} ahead of the next, {second.name}"
    interval = f"95 % of resampled row sets say {low:+.3f} to {high:+.3f}"
    end = "the difference could be chance" if lead.chance else "more than chance"
    return f"{said}; {interval}: {end}."
