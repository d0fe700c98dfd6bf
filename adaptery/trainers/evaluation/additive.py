"""Metrics that are functions of sums over rows, such as counts of right answers.

Every built-in metric is one. Then a sample of rows is a weighted sum of what the rows contribute,
and the metric of thousands of samples is one matrix product: see `bootstrap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Texts = Sequence[str]


@dataclass(frozen=True)
class Additive:
    """A metric of predictions and references.

    Args:
        statistics: what each row contributes, (rows, statistics); which statistics there are
            depends on the references alone, so that those of two models can be compared.
        value: the metric of each of several samples, (samples,), by the samples' summed statistics,
            (samples, statistics).
    """

    statistics: Callable[[Texts, Texts], Floats]
    value: Callable[[Floats], Floats]

    def __call__(self, predictions: Texts, references: Texts) -> float:
        """The metric of these rows."""
        sums = self.statistics(predictions, references).sum(0)
        return float(self.value(sums[None])[0])


def right_answers(predictions: Texts, references: Texts) -> Floats:
    """For each row whether it is right, and that it is one; (rows, 2)."""
    right = np.array(predictions) == np.array(references)
    return np.stack([right, np.ones(len(right))], 1).astype(float)


def mean(sums: Floats) -> Floats:
    """The sum of something over rows by their number, or by any other sum."""
    return sums[:, 0] / sums[:, 1]


def class_counts(predictions: Texts, references: Texts) -> Floats:
    """For each true class whether a row is a hit, is told to be of it, and is of it;
    (rows, 3 x classes). Answers that are no class count as misses."""
    classes = np.array(sorted(set(references)))
    told = np.array(predictions)[:, None] == classes
    true = np.array(references)[:, None] == classes
    return np.concatenate([told & true, told, true], 1).astype(float)


def mean_f1(sums: Floats) -> Floats:
    """The unweighted mean of the F1 of those classes of which a sample has rows."""
    hits, told, true = np.split(sums, 3, axis=1)
    present = true > 0
    f1 = np.divide(2 * hits, told + true, out=np.zeros_like(hits), where=present)
    means: Floats = f1.sum(1) / present.sum(1)
    return means


ACCURACY = Additive(right_answers, mean)
MACRO_F1 = Additive(class_counts, mean_f1)
