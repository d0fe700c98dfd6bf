"""Calibration: by how much a class' score must be raised for the best decisions.

For two classes it is the practice notes' threshold: the second wins where its score is more than
`delta` above the first's. For more, each class has an offset, and these are found one after the
other, again and again, until none is better elsewhere on the grid.

A threshold that was chosen on some rows looks better on them than it is. So the gain is measured on
rows that had no part in the choice: each fifth is decided by the offsets that are best on the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptery.errors import DataError, UnknownName, UsageError
from adaptery.trainers.evaluation.additive import ACCURACY, MACRO_F1, Floats, mean, mean_f1
from adaptery.trainers.evaluation.bootstrap import Difference, difference, measures
from adaptery.trainers.evaluation.scoring import Evaluation, measured
from adaptery.trainers.tasks.base import Answer

Integers = NDArray[np.int_]
FOLDS = 5
MOST_ROUNDS = 50  # over all classes; each must make the metric better, so there are few
MOST_STEPS = 10_000

METRICS = {"macro_f1": MACRO_F1, "f1": MACRO_F1, "accuracy": ACCURACY}


@dataclass(frozen=True)
class Grid:
    """The offsets that are tried: from `start` to `stop`, both included, `step` apart, and 0."""

    start: float = -3.0
    stop: float = 3.0
    step: float = 0.05

    @classmethod
    def parse(cls, text: str) -> "Grid":
        """`START,STOP,STEP` as users write it.

        Raises:
            UsageError: it is not three numbers that make a grid of at most 10,000 offsets.
        """
        try:
            start, stop, step = map(float, text.split(","))
            steps = (stop - start) / step
        except (ValueError, ZeroDivisionError):
            steps = -1.0
        if not 1 <= steps <= MOST_STEPS or step <= 0:
            raise UsageError(
                f"{text!r} is no grid: write START,STOP,STEP with START below STOP and at most "
                f"{MOST_STEPS:,} steps, such as -3,3,0.05."
            )
        return cls(start, stop, step)

    @property
    def offsets(self) -> Floats:
        """Those nearest to 0 first, so that the first of the best is the smallest change."""
        count = int(np.floor((self.stop - self.start) / self.step + 1e-9)) + 1
        points = np.round(self.start + self.step * np.arange(count), 10)
        points = np.unique(np.append(points, 0.0))
        return points[np.lexsort((points, np.abs(points)))]


@dataclass(frozen=True)
class Calibration:
    """What was found. `gain` is of rows that had no part in the choice, with its interval."""

    labels: tuple[str, ...]
    offsets: tuple[float, ...]
    metric: str
    before: float
    after: float
    gain: Difference

    @property
    def delta(self) -> float | None:
        """For two classes: what the second's score must be above the first's."""
        return self.offsets[0] - self.offsets[1] if len(self.offsets) == 2 else None


def calibrate(
    evaluation: Evaluation,
    labels: Sequence[str],
    grid: Grid,
    metric: str = "macro_f1",
    seed: int = 0,
) -> Calibration:
    """The offsets that are best for an evaluation's answers, whatever offsets it was made with.

    Raises:
        UnknownName: the metric is none of those that decisions can be chosen by.
        DataError: the rows are of a single class.
    """
    check_metric(metric)
    scores = np.array([answer.scores for answer in evaluation.answers])
    places = {label: place for place, label in enumerate(labels)}
    truth = np.array([places[label] for label in evaluation.references])
    if len(set(evaluation.references)) < 2:
        raise DataError(
            f"All {len(truth)} rows are of the class {evaluation.references[0]!r}, so no threshold "
            "is better than another. Calibrate on rows of all classes."
        )
    offsets = best_offsets(scores, truth, grid.offsets, metric)
    before, after, unseen = (
        decided(evaluation, labels, told, metric)
        for told in (
            scores.argmax(1),
            (scores + offsets).argmax(1),
            cross_validated(scores, truth, grid.offsets, metric, seed),
        )
    )
    found = [
        measures(one, {metric: METRICS[metric]}, seed=seed)[metric] for one in (unseen, before)
    ]
    return Calibration(
        labels=tuple(labels),
        offsets=tuple(offsets.tolist()),
        metric=metric,
        before=before.metrics[metric],
        after=after.metrics[metric],
        gain=difference(found[0], found[1]),
    )


def check_metric(metric: str) -> None:
    """Do nothing if decisions can be chosen by `metric`. Raises `UnknownName`."""
    if metric not in METRICS:
        raise UnknownName("metric to calibrate by", metric, METRICS)


def best_offsets(scores: Floats, truth: Integers, grid: Floats, metric: str) -> Floats:
    """The offsets, (classes,). The second of two keeps 0, since only their difference counts."""
    classes = scores.shape[1]
    offsets = np.zeros(classes)
    order = [0] if classes == 2 else list(range(classes))
    value = quality(scores, truth, 0, offsets[:1], offsets, metric)[0]
    for _ in range(MOST_ROUNDS):
        before = value
        for place in order:
            tried = quality(scores, truth, place, grid, offsets, metric)
            best = int(tried.argmax())  # the first, which is the nearest to 0
            if tried[best] > value:
                offsets[place], value = grid[best], tried[best]
        if value == before or classes == 2:
            break
    return offsets


def quality(
    scores: Floats, truth: Integers, place: int, grid: Floats, offsets: Floats, metric: str
) -> Floats:
    """The metric for each offset of one class, those of the others given; (offsets,)."""
    classes = scores.shape[1]
    raised = scores + offsets
    raised[:, place] = -np.inf
    rival = raised.argmax(1)
    # Of equal scores the first wins, as in `Classification.decide`.
    margin = raised.max(1) - scores[:, place]
    wins = np.where(place < rival, grid[:, None] >= margin, grid[:, None] > margin).astype(float)
    loses = 1 - wins
    true = np.eye(classes)[truth]
    rivals = np.eye(classes)[rival]
    hits = loses @ (rivals * true)
    hits[:, place] += wins @ true[:, place]
    if metric == "accuracy":
        return mean(np.stack([hits.sum(1), np.full(len(grid), float(len(truth)))], 1))
    told = loses @ rivals
    told[:, place] += wins.sum(1)
    present = np.broadcast_to(true.sum(0), told.shape)
    return mean_f1(np.concatenate([hits, told, present], 1))


def cross_validated(
    scores: Floats, truth: Integers, grid: Floats, metric: str, seed: int
) -> Integers:
    """What is told of each row by the offsets that are best on the other folds, (rows,)."""
    order = np.random.default_rng(seed).permutation(len(truth))
    told = np.empty(len(truth), dtype=int)
    for fold in np.array_split(order, min(FOLDS, len(truth))):
        rest = np.setdiff1d(order, fold)
        offsets = best_offsets(scores[rest], truth[rest], grid, metric)
        told[fold] = (scores[fold] + offsets).argmax(1)
    return told


def decided(
    evaluation: Evaluation, labels: Sequence[str], told: Integers, metric: str
) -> Evaluation:
    """The evaluation with other answers."""
    answers = [
        Answer(labels[place], answer.loss, answer.tokens, answer.scores)
        for place, answer in zip(told.tolist(), evaluation.answers, strict=True)
    ]
    return measured(answers, evaluation.references, {metric: METRICS[metric]})
