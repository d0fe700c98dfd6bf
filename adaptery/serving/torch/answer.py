"""What each request gets: scores in, tokens and text out, until something ends it."""

import logging
import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from adaptery.errors import EngineError
from adaptery.serving.engine import Chunk, SamplingParams
from adaptery.serving.torch.constraints import Constraint, grammars_of
from adaptery.serving.torch.penalties import Penalties
from adaptery.serving.torch.sampling import Floats, LogProbs, draw
from adaptery.serving.torch.text import TextStream

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

TopLogProbs = tuple[tuple[int, float], ...]


class Answer:
    """One request's answer; its chunks go to `deliver` one by one, and an error is the last."""

    def __init__(
        self,
        sampling: SamplingParams,
        tokenizer: "PreTrainedTokenizerBase",
        end_ids: frozenset[int],
        prompt: Sequence[int],
        deliver: Callable[[Chunk | EngineError], None],
    ) -> None:
        self._sampling = sampling
        self._random = random.Random(None if sampling.seed is None else sampling.seed % 2**64)
        self._text = TextStream(tokenizer, sampling.stop)
        self._penalties = Penalties(sampling, prompt)
        ends = frozenset(sampling.stop_token_ids)
        self._ends = ends if sampling.ignore_eos else ends | end_ids
        self._tokens = 0
        self._compiled: Future[LLMatcher] | None = None
        if sampling.grammar is not None:
            self._compiled = grammars_of(tokenizer, end_ids).get(sampling.grammar)
        self.deliver = deliver

    def when_ready(self, call: Callable[[], None]) -> None:
        """`call` once the first token can be chosen: at once, unless a grammar is being compiled.

        Who does not wait for that has `choose` wait.
        """
        if self._compiled is None:
            call()
        else:
            self._compiled.add_done_callback(lambda _: call())

    @property
    def plain(self) -> bool:
        """Whether the next token is the best one, and nobody asks for more than that."""
        return self._always_best and self._tokens >= self._sampling.min_tokens

    @cached_property
    def _always_best(self) -> bool:
        scored = self._sampling.logprobs is not None or self._sampling.scored
        best = self._sampling.temperature == 0 and self._compiled is None
        return best and not scored and self._penalties.nothing

    @cached_property
    def _constraint(self) -> Constraint | None:
        return None if self._compiled is None else Constraint(self._compiled.result().deep_copy())

    def choose(self, scores: Floats) -> Chunk:
        """The next chunk, by scores of shape (vocabulary,), which are left as they are.

        Raises:
            EngineError: none of the tokens is possible.
        """
        # A number is drawn for every token, so that the n-th is the same whatever is asked for.
        token = draw(self._adjusted(scores), self._sampling, self._random.random())
        return self.take(token, scores)

    def _adjusted(self, scores: Floats) -> Floats:
        early = self._tokens < self._sampling.min_tokens and self._ends
        if early or not self._penalties.nothing:
            scores = scores.copy()
            self._penalties.apply(scores)
        if self._constraint is not None:
            scores = self._constraint.apply(scores)
        if early:
            scores[list(self._ends)] = -np.inf
        return scores

    def take(self, token: int, scores: Floats | None = None) -> Chunk:
        """The next chunk, with `token`, and its log-probability if that is asked for."""
        self._tokens += 1
        self._penalties.push(token)
        ends = token in self._ends
        if self._constraint is not None and not ends:
            self._constraint.push(token)
        counts = self._tokens > self._sampling.min_tokens
        text = "" if ends else self._text.push(token, may_stop=counts)
        reason = self._finish_reason(ends)
        if reason is not None and not self._text.stopped:
            text += self._text.flush()
        if scores is None:
            return Chunk(token, text, finish_reason=reason)
        return Chunk(token, text, *self._logprobs(token, scores), reason, self._scored(scores))

    def _finish_reason(self, ends: bool) -> str | None:
        if ends or self._text.stopped or (self._constraint and self._constraint.complete):
            return "stop"
        return "length" if self._tokens >= self._sampling.max_tokens else None

    def _logprobs(self, token: int, scores: Floats) -> tuple[float | None, TopLogProbs]:
        if self._sampling.logprobs is None:
            return None, ()
        logprobs = LogProbs(scores)
        return logprobs.of(token), logprobs.top(self._sampling.logprobs)

    def _scored(self, scores: Floats) -> tuple[float, ...]:
        if not self._sampling.scored:
            return ()
        logprobs = LogProbs(scores)
        return tuple(logprobs.of(token) for token in self._sampling.scored)


def choose(answers: Sequence[Answer], logits: Tensor) -> list[Chunk | EngineError]:
    """The next chunk of every answer, by its row of `logits`, of shape (rows, vocabulary).

    Rows that take the best token cost one maximum over all of them; the others are computed one by
    one. Raises nothing for the sake of one row: what goes wrong there is its result.
    """
    if not answers:
        return []
    demanding = [row for row, answer in enumerate(answers) if not answer.plain]
    tokens, peaks, scores = look(logits, demanding)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return [
            advance(answer, token, peak, scores.get(row))
            for row, (answer, token, peak) in enumerate(zip(answers, tokens, peaks, strict=True))
        ]


Seen = tuple[list[int], list[float], dict[int, Floats]]


def look(logits: Tensor, wanted: list[int]) -> Seen:
    """The best token of every row, its score, and all scores of the rows wanted.

    A row that holds NaN or infinity has one of these as its best. (Minus infinity is how a model
    rules a token out, and no fault as long as there are others.)
    """
    return (look_here if logits.device.type == "cpu" else look_there)(logits, wanted)


def look_here(logits: Tensor, wanted: list[int]) -> Seen:
    """On the CPU, where numpy's argmax takes a tenth of the time of torch's."""
    scores = logits.float().numpy()
    tokens = scores.argmax(axis=1)
    peaks = scores[np.arange(len(tokens)), tokens]
    return tokens.tolist(), peaks.tolist(), {row: scores[row] for row in wanted}


def look_there(logits: Tensor, wanted: list[int]) -> Seen:
    """On an accelerator, of which only the rows wanted come here."""
    values, tokens = logits.max(dim=1)
    rows = logits[wanted].float().cpu().numpy()
    return tokens.tolist(), values.tolist(), dict(zip(wanted, rows, strict=True))


def advance(answer: Answer, token: int, peak: float, scores: Floats | None) -> Chunk | EngineError:
    """The next chunk of one answer: the best token, or what it chooses by `scores`."""
    if not math.isfinite(peak):
        return EngineError(
            "The model's scores for this request are not finite numbers: its weights overflow."
        )
    try:
        return answer.take(token) if scores is None else answer.choose(scores)
    except EngineError as error:
        return error
    except Exception as error:
        log.exception("No token could be chosen.")
        return EngineError(f"No token could be chosen: {type(error).__name__}: {error}")
