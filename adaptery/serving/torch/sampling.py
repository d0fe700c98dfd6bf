"""The mathematics of choosing a token by the scores of all.

One row at a time on the CPU, so that what a request gets depends on its own scores alone, to the
last bit: probabilities in float32 (the scores have no more), their sums in float64.
"""

import math

import numpy as np
from numpy.typing import NDArray

from adaptery.errors import EngineError
from adaptery.serving.engine import SamplingParams

Floats = NDArray[np.float32]  # of shape (vocabulary,) where nothing else is said
Ids = NDArray[np.intp]  # tokens, ascending

BLOCK = 512  # weights that are summed before any of them is looked at
NEAR = 10.0  # nats below the best: beyond are few of the tokens that are ever drawn
ROUNDING = 1 - 2.0**-23  # of float32: a sum that should just reach `top_p` does
LEAST_LOGPROB = -9999.0  # OpenAI's word for minus infinity, which JSON does not have
LEAST_TEMPERATURE = 1e-30  # smaller ones are no float32; the best is taken long before


def draw(scores: Floats, sampling: SamplingParams, uniform: float) -> int:
    """The token at `uniform`, of [0, 1), in the distribution that `sampling` makes of `scores`.

    Raises:
        EngineError: no token is left.
    """
    best = int(scores.argmax())
    if scores[best] == -np.inf:
        raise EngineError("No token is left that this request's parameters would allow.")
    if sampling.temperature == 0:
        return best
    tokens, weights = distribution(scores, scores[best], sampling)
    place = reach(weights, uniform)
    return place if tokens is None else int(tokens[place])


def distribution(
    scores: Floats, peak: np.float32, sampling: SamplingParams
) -> tuple[Ids | None, Floats]:
    """The tokens that can be drawn (None: all) and how likely they are, the best having 1."""
    tokens: Ids | None = None
    if 0 < sampling.top_k < len(scores):
        tokens = highest(scores, sampling.top_k, peak)
        scores = scores[tokens]
    weights = scores - peak  # first of all, so that a tiny temperature cannot overflow
    weights /= np.float32(max(sampling.temperature, LEAST_TEMPERATURE))
    np.exp(weights, out=weights)
    if sampling.top_p < 1:
        near, weights = nucleus(weights, sampling.top_p)
        if near is not None:
            tokens = near if tokens is None else tokens[near]
    if sampling.min_p > 0:
        weights[weights < np.float32(sampling.min_p)] = 0
    return tokens, weights


def highest(scores: Floats, count: int, peak: np.float32) -> Ids:
    """The `count` tokens of the highest scores, and those that score as the last of them."""
    near: Ids = np.flatnonzero(scores >= peak - np.float32(NEAR))
    if len(near) < count:
        near = np.arange(len(scores))
    candidates = scores[near]
    last = np.partition(candidates, len(near) - count)[len(near) - count]
    return np.compress(candidates >= last, near)


def nucleus(weights: Floats, top_p: float) -> tuple[Ids | None, Floats]:
    """The fewest tokens that together have `top_p` of the weight; the others weigh 0 or are left
    out of the tokens returned (None: none is)."""
    wanted = top_p * ROUNDING * float(weights.sum(dtype=np.float64))
    near = np.flatnonzero(weights > np.float32(math.exp(-NEAR)))
    likely = weights[near]
    if likely.sum(dtype=np.float64) < wanted:
        return None, heaviest(weights, wanted)
    return near, heaviest(likely, wanted)


def heaviest(weights: Floats, wanted: float) -> Floats:
    """Only the fewest of `weights` that sum up to what is wanted, 0 for the others.

    Among equals the first stay.
    """
    ordered = np.sort(weights)
    count = reach(ordered[::-1], wanted / float(ordered.sum(dtype=np.float64))) + 1
    last = ordered[-count]
    kept: Floats = weights * (weights >= last)
    if surplus := len(ordered) - int(ordered.searchsorted(last)) - count:
        kept[np.flatnonzero(weights == last)[-surplus:]] = 0
    return kept


def reach(weights: Floats, share: float) -> int:
    """Where the running sum of `weights` first exceeds `share` of all; never at a weight of 0.

    Blocks are summed first, so that only one of them is looked at weight by weight.
    """
    running = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK), dtype=np.float64).cumsum()
    point = share * running[-1]
    block = first_above(running, point)
    inside = weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    before = running[block - 1] if block else 0.0
    return block * BLOCK + first_above(before + inside, point)


def first_above(running: NDArray[np.float64], point: float) -> int:
    """The first place of a running sum that is above `point`; where it ends, if none is."""
    place = int(running.searchsorted(point, side="right"))
    return place if place < len(running) else int(running.searchsorted(running[-1]))


class LogProbs:
    """Log-probabilities (nats) of tokens, by the scores of all."""

    def __init__(self, scores: Floats) -> None:
        self._scores = scores
        self._peak = scores.max()
        self._whole = self._peak + np.log(np.exp(scores - self._peak).sum())

    def of(self, token: int) -> float:
        """One token's."""
        return max(float(self._scores[token] - self._whole), LEAST_LOGPROB)

    def top(self, count: int) -> tuple[tuple[int, float], ...]:
        """The `count` most likely tokens, first the likeliest, with theirs."""
        if not count:
            return ()
        tokens = highest(self._scores, min(count, len(self._scores)), self._peak)
        ordered = tokens[np.argsort(-self._scores[tokens], kind="stable")][:count]
        return tuple((token, self.of(token)) for token in ordered.tolist())
