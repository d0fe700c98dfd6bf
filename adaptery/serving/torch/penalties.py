"""Scores changed by what a request asks for and by the tokens that are there already."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptery.serving.engine import SamplingParams
from adaptery.serving.torch.sampling import Floats


class Penalties:
    """One request's `logit_bias` and penalties, and the tokens that these are about."""

    def __init__(self, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._biased = np.array([token for token, _ in sampling.logit_bias], np.intp)
        self._bias = np.array([bias for _, bias in sampling.logit_bias], np.float32)
        self._repeats = sampling.repetition_penalty != 1
        self._counts = sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        self._seen = np.unique(np.array(prompt if self._repeats else (), np.intp))
        self._known = set(self._seen.tolist())
        self._said = Counts()

    @property
    def nothing(self) -> bool:
        """Whether this request changes no score."""
        return not (self._repeats or self._counts or len(self._biased))

    def push(self, token: int) -> None:
        """The answer has one more token."""
        if self._counts:
            self._said.push(token)
        if self._repeats and token not in self._known:
            self._known.add(token)
            self._seen = np.append(self._seen, token)

    def apply(self, scores: Floats) -> None:
        """Change `scores`, of shape (vocabulary,), in place."""
        scores[self._biased] += self._bias
        if self._repeats:
            seen, penalty = scores[self._seen], np.float32(self._sampling.repetition_penalty)
            scores[self._seen] = np.where(seen < 0, seen * penalty, seen / penalty)
        if self._counts:
            frequency = np.float32(self._sampling.frequency_penalty)
            presence = np.float32(self._sampling.presence_penalty)
            scores[self._said.tokens] -= self._said.counts * frequency + presence


class Counts:
    """How often each token was said."""

    def __init__(self) -> None:
        self.tokens: NDArray[np.intp] = np.empty(0, np.intp)
        self.counts: Floats = np.empty(0, np.float32)
        self._places: dict[int, int] = {}

    def push(self, token: int) -> None:
        """Once more."""
        place = self._places.setdefault(token, len(self.tokens))
        if place == len(self.tokens):
            self.tokens = np.append(self.tokens, token)
            self.counts = np.append(self.counts, np.float32(0))
        self.counts[place] += 1
