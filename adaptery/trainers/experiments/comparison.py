"""Whether one variation is better than another, or only luckier: a paired bootstrap over rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from adaptery.trainers.evaluation.bootstrap import Difference, Measure, difference, measures
from adaptery.trainers.evaluation.scoring import LOSSES, Metric
from adaptery.trainers.experiments.cells import three, title
from adaptery.trainers.experiments.table import Row, best_of


def compare(
    row: Row, against: Row, metric: str, metrics: Mapping[str, Metric]
) -> Difference | None:
    """How far a row is above another; None unless both answered the same held-out rows."""
    origins = {
        tuple(said.origin for said in run.answers)
        for side in (row, against)
        for run in side.finished
    }
    if not row.finished or not against.finished or len(origins) > 1 or origins == {()}:
        return None
    return difference(measure(row, metric, metrics), measure(against, metric, metrics))


def measure(row: Row, metric: str, metrics: Mapping[str, Metric]) -> Measure:
    """A metric's mean over a row's seeds, of the rows as they are and of samples of them.

    All seeds' answers to a held-out row are drawn together, for they are no other rows.
    """
    wanted = {} if metric in LOSSES else {metric: metrics[metric]}
    found = [measures(run.evaluation(wanted), wanted)[metric] for run in row.finished]
    values, samples = [one.value for one in found], [one.samples for one in found]
    return Measure(float(np.mean(values)), np.mean(samples, 0))


def told(apart: Difference) -> str:
    """A difference as people read it."""
    text = f"{apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"
    return f"{text}, may be chance" if apart.could_be_chance else text


def verdict(rows: Sequence[Row], metric: str | None, metrics: Mapping[str, Metric]) -> str:
    """Which row is best, by how much, and whether that could be chance."""
    best = best_of(rows, metric) if metric else None
    score = best.score(metric) if best and metric else None
    if metric is None or best is None or score is None:
        return "No run ended well with something measured, so none of them is the best."
    said = f"{best.name} has the best {title(metric)}: {score.told(three)}."
    second = best_of([row for row in rows if row is not best], metric)
    if second is None:
        return said
    lead = compare(best, second, metric, metrics)
    if lead is None:
        return f"{said} The next is {second.name}."
    end = "that could be chance" if lead.could_be_chance else "more than chance"
    return (
        f"{said} Less that of the next, {second.name}, that is {lead.value:+.3f}, and "
        f"{lead.low:+.3f} to {lead.high:+.3f} in 95 % of samples of the rows: {end}."
    )
