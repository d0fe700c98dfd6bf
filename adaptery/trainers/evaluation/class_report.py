"""What lies behind a score of classes: the confusion matrix, each class' scores, their overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptery.trainers.evaluation.additive import Floats
from adaptery.trainers.evaluation.scoring import Evaluation

OTHER = "(other)"
"""The column of answers that are no class."""


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told; shares, 0 where there is nothing to take a share of."""

    label: str
    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Overlap:
    """How far the scores of a class' rows and those of the others lie in one range (nats).

    A row's score is the log-odds of the class: for two classes the difference of their
    log-probabilities. `auc` is the probability that a row of the class scores above one that is
    not: 1 where a threshold parts them, 0.5 where scores say nothing.
    """

    label: str
    own: tuple[float, float]
    others: tuple[float, float]
    own_within_others: float
    others_within_own: float
    auc: float


@dataclass(frozen=True)
class ClassReport:
    """`confusion[i][j]` counts rows of class `labels[i]` that were told to be of `columns[j]`."""

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassScore, ...]
    overlaps: tuple[Overlap, ...]


def class_report(evaluation: Evaluation, labels: Sequence[str] = ()) -> ClassReport:
    """The report on answers that are classes.

    Args:
        labels: the classes in order; those of the references where the task tells none.
    """
    references = evaluation.references
    told = [answer.text for answer in evaluation.answers]
    labels = tuple(labels) or tuple(sorted(set(references)))
    columns = (*labels, OTHER) if set(told) - set(labels) else labels
    places = {label: place for place, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(columns)), dtype=int)
    for true, said in zip(references, told, strict=True):
        counts[places[true], places.get(said, len(columns) - 1)] += 1
    return ClassReport(
        labels=labels,
        columns=columns,
        confusion=tuple(tuple(row) for row in counts.tolist()),
        classes=tuple(class_score(label, place, counts) for place, label in enumerate(labels)),
        overlaps=overlaps(evaluation, labels),
    )


def class_score(
    label: str, place: int, counts: "np.ndarray[tuple[int, int], np.dtype[np.int_]]"
) -> ClassScore:
    hits, told, true = counts[place, place], counts[:, place].sum(), counts[place].sum()
    return ClassScore(
        label=label,
        rows=int(true),
        precision=share(hits, told),
        recall=share(hits, true),
        f1=share(2 * hits, told + true),
    )


def share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def overlaps(evaluation: Evaluation, labels: Sequence[str]) -> tuple[Overlap, ...]:
    """The overlap of each class with all others; of two classes only the second's, since the
    first's is the same. None where answers have no scores, or a class no rows."""
    if not evaluation.answers or not evaluation.answers[0].scores:
        return ()
    scores = np.array([answer.scores for answer in evaluation.answers])
    references = np.array(evaluation.references)
    asked = range(1, 2) if len(labels) == 2 else range(len(labels))
    found = []
    for place in asked:
        own = references == labels[place]
        if own.any() and not own.all():
            odds = log_odds(scores, place)
            found.append(overlap(labels[place], odds[own], odds[~own]))
    return tuple(found)


def log_odds(scores: Floats, place: int) -> Floats:
    """A class' log-probability less that of all others together, (rows,)."""
    others = np.delete(scores, place, axis=1)
    odds: Floats = scores[:, place] - np.logaddexp.reduce(others, axis=1)
    return odds


def overlap(label: str, own: Floats, others: Floats) -> Overlap:
    return Overlap(
        label=label,
        own=(float(own.min()), float(own.max())),
        others=(float(others.min()), float(others.max())),
        own_within_others=within(own, others),
        others_within_own=within(others, own),
        auc=area(own, others),
    )


def within(scores: Floats, others: Floats) -> float:
    """The share of `scores` between the lowest and the highest of `others`."""
    return float(((scores >= others.min()) & (scores <= others.max())).mean())


def area(own: Floats, others: Floats) -> float:
    """The share of pairs in which the first scores above the second; equal ones count half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    return float(below.sum() / 2 / (len(own) * len(others)))
