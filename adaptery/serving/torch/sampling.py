"""Choosing a token from the scores of all."""

import torch
from torch import Tensor

from adaptery.serving.engine import SamplingParams


class Sampler:
    """Chooses for one request, with a random generator of its own.

    So what it draws depends on its seed alone, whoever else is in the batch.
    """

    def __init__(self, sampling: SamplingParams) -> None:
        self._sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**64)

    def choose(self, logits: Tensor) -> int:
        """A token, by scores of shape (vocabulary,)."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        # The largest score is taken off first, so that a tiny temperature cannot overflow.
        scaled = (logits - logits.max()) / self._sampling.temperature
        probabilities, tokens = scaled.softmax(0), None
        if self._sampling.top_p < 1:
            probabilities, tokens = nucleus(probabilities, self._sampling.top_p)
        chosen = self._draw(probabilities)
        return chosen if tokens is None else int(tokens[chosen])

    def _draw(self, probabilities: Tensor) -> int:
        """An index, by probabilities that need not sum to 1."""
        sums = probabilities.double().cumsum(0)
        point = torch.rand(1, generator=self._random, dtype=torch.float64) * sums[-1]
        return min(int(torch.searchsorted(sums, point, right=True)), len(sums) - 1)


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest tokens that together have `top_p`: their probabilities, largest first, and ids."""
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    kept = int((ordered.cumsum(0) - ordered < top_p).sum())
    return ordered[: max(kept, 1)], tokens[: max(kept, 1)]


def top_scores(
    logits: Tensor, token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Log-probability (nats) of `token`, and the `count` most likely tokens with theirs."""
    logprobs = logits.log_softmax(0)
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return float(logprobs[token]), top


def scores_of(logits: Tensor, tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Log-probabilities (nats) of `tokens`."""
    if not tokens:
        return ()
    return tuple((logits[list(tokens)] - logits.logsumexp(0)).tolist())
