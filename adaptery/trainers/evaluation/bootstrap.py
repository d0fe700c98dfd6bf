"""What a score would be on other rows: the paired bootstrap (Efron; Koehn 2004 for BLEU).

Rows are drawn with replacement, as many as there are, the same for every model, thousands of times.
How much the difference of two models varies over these samples says whether it could be chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptery.trainers.evaluation.additive import Additive, Floats, mean
from adaptery.trainers.evaluation.scoring import MOST_EXPONENT, Evaluation, Metric

RESAMPLES = 2000
SLOW_RESAMPLES = 200  # of metrics that have to be computed anew for each sample
CONFIDENCE = 0.95
MOST_DRAWS = 4_000_000  # row counts that are in memory at a time


@dataclass(frozen=True)
class Measure:
    """One metric of one model, ready to be taken of samples of rows.

    `samples` are values on the samples that `draws` gives, (resamples,).
    """

    value: float
    samples: Floats


@dataclass(frozen=True)
class Difference:
    """How far a model is from another by some metric, with the interval of the samples."""

    value: float
    low: float
    high: float

    @property
    def could_be_chance(self) -> bool:
        """Whether 0 is within the interval."""
        return self.low <= 0 <= self.high


def difference(one: Measure, other: Measure, confidence: float = CONFIDENCE) -> Difference:
    """`one` less `other`, row by row: both must be measured on the same rows and draws."""
    outside = 100 * (1 - confidence) / 2
    count = min(len(one.samples), len(other.samples))
    apart = one.samples[:count] - other.samples[:count]
    low, high = np.percentile(apart, [outside, 100 - outside])
    return Difference(one.value - other.value, float(low), float(high))


def measures(
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Measure]:
    """Each metric of an evaluation with its values on samples; the losses too.

    The draws depend on the number of rows, `resamples` and `seed` alone, so that evaluations of the
    same rows are paired.
    """
    answers, references = evaluation.answers, evaluation.references
    predictions = [answer.text for answer in answers]
    losses = np.array([[answer.loss, answer.tokens] for answer in answers], dtype=float)
    statistics = {"loss": losses, "perplexity": losses}
    values: dict[str, Callable[[Floats], Floats]] = {"loss": mean, "perplexity": perplexity}
    for name, metric in metrics.items():
        if isinstance(metric, Additive):
            statistics[name] = metric.statistics(predictions, references)
            values[name] = metric.value
    sums: dict[str, list[Floats]] = {name: [] for name in statistics}
    for counts in draws(len(answers), resamples, seed):
        for name, rows in statistics.items():
            sums[name].append(counts @ rows)
    found = {name: values[name](np.concatenate(sums[name])) for name in statistics}
    for name in metrics.keys() - found.keys():
        found[name] = slowly(metrics[name], predictions, references, resamples, seed)
    return {name: Measure(evaluation.metrics[name], found[name]) for name in evaluation.metrics}


def perplexity(sums: Floats) -> Floats:
    return np.exp(np.minimum(mean(sums), MOST_EXPONENT))


def slowly(
    metric: Metric, predictions: Sequence[str], references: Sequence[str], resamples: int, seed: int
) -> Floats:
    """Any metric's values, on the first of the same draws."""
    found: list[float] = []
    for counts in draws(len(references), resamples, seed):
        for row in counts.astype(int)[: SLOW_RESAMPLES - len(found)]:
            drawn = np.repeat(np.arange(len(row)), row).tolist()
            found.append(
                float(metric([predictions[i] for i in drawn], [references[i] for i in drawn]))
            )
        if len(found) >= SLOW_RESAMPLES:
            break
    return np.array(found)


def draws(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is in each sample, (samples, rows), some samples at a time."""
    random = np.random.default_rng(seed)
    size = max(1, MOST_DRAWS // rows)
    for start in range(0, resamples, size):
        drawn = random.multinomial(rows, np.full(rows, 1 / rows), min(size, resamples - start))
        yield drawn.astype(float)
