"""What class weights and thresholds do: recall by class, and scores before and after calibration.

Thresholds are chosen on some rows and scored on others: on --calibration-data and all held-out
rows, or on one half of the held-out rows and the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptery.trainers.evaluation.additive import MACRO_F1
from adaptery.trainers.evaluation.bootstrap import Difference, Measure, difference, measures
from adaptery.trainers.evaluation.calibration import Grid, calibrate, decided
from adaptery.trainers.evaluation.class_report import class_report
from adaptery.trainers.evaluation.scoring import Evaluation
from adaptery.trainers.experiments.answers import evaluation_of
from adaptery.trainers.experiments.cells import three
from adaptery.trainers.experiments.comparison import told
from adaptery.trainers.experiments.experiment import Run
from adaptery.trainers.experiments.report import Table
from adaptery.trainers.experiments.table import Figure, Row

METRIC = "macro_f1"
METRICS = {METRIC: MACRO_F1}


def recall_table(rows: Sequence[Row]) -> Table:
    """The recall of each class: what weights take from one class and give to another."""
    reports = [
        [class_report(run.evaluation(METRICS), run.labels).classes for run in row.finished]
        for row in rows
    ]
    found = next(own[0] for own in reports if own)
    headings = [f"{one.label} ({one.rows} rows)" for one in found]
    cells = []
    for row, own in zip(rows, reports, strict=True):
        shares = [[run[place].recall for run in own] for place in range(len(found))]
        told_of = [Figure.of(share).told(three) if share else row.status for share in shares]
        cells.append([row.name, *told_of])
    return Table(["recall of", *headings], cells, [False] + [True] * len(found), "Recall by class:")


@dataclass(frozen=True)
class Calibrated:
    """One run before and after calibration, on rows that had no part in it."""

    before: Measure
    after: Measure
    offsets: tuple[float, ...]


def threshold_table(rows: Sequence[Row]) -> Table:
    """Macro-F1 with and without calibrated thresholds, on the same rows."""
    cells, where = [], "other held-out rows"
    for row in rows:
        found = [calibrated(run) for run in row.finished]
        if not found:
            cells.append([row.name, row.status, "", "", ""])
            continue
        before = Figure.of([one.before.value for one in found])
        after = Figure.of([one.after.value for one in found])
        offsets = ", ".join(f"{offset:+.2f}" for offset in found[0].offsets)
        cells.append([row.name, before.told(three), after.told(three), told(gain(found)), offsets])
    if any(run.calibration for row in rows for run in row.finished):
        where = "the calibration rows"
    labels = next((run.labels for row in rows for run in row.finished), ())
    headings = ["thresholds", "macro-F1", "calibrated", "gain", f"offsets of {', '.join(labels)}"]
    caption = f"Thresholds chosen on {where}; scores of rows that had no part in the choice:"
    return Table(headings, cells, [False, True, True, True, True], caption)


def gain(found: Sequence[Calibrated]) -> Difference:
    """What calibration adds, over all seeds, with its interval."""
    before, after = (
        Measure(
            float(np.mean([getattr(one, side).value for one in found])),
            np.mean([getattr(one, side).samples for one in found], 0),
        )
        for side in ("before", "after")
    )
    return difference(after, before)


def calibrated(run: Run) -> Calibrated:
    """A run's scores before and after calibration, as its offsets were chosen elsewhere."""
    scored = run.evaluation(METRICS)
    if run.calibration:
        chosen_on = evaluation_of(run.calibration, METRICS)
    else:
        first, second = halves(scored.references)
        chosen_on, scored = part(scored, first), part(scored, second)
    offsets = calibrate(chosen_on, run.labels, Grid(), METRIC).offsets
    scores = np.array([answer.scores for answer in scored.answers])
    before, after = (
        decided(scored, run.labels, (scores + raised).argmax(1), METRIC)
        for raised in (np.zeros(len(offsets)), np.array(offsets))
    )
    return Calibrated(measures(before, METRICS)[METRIC], measures(after, METRICS)[METRIC], offsets)


def halves(references: Sequence[str], seed: int = 0) -> tuple[list[int], list[int]]:
    """Two parts of the rows with as many of each class, the same for every run."""
    order = np.random.default_rng(seed).permutation(len(references)).tolist()
    by_class = sorted(order, key=lambda place: references[place])  # stable: drawn within a class
    return sorted(by_class[::2]), sorted(by_class[1::2])


def part(evaluation: Evaluation, places: Sequence[int]) -> Evaluation:
    """Some rows of an evaluation; the metrics are still those of all."""
    return replace(
        evaluation,
        answers=[evaluation.answers[place] for place in places],
        references=[evaluation.references[place] for place in places],
    )
