"""What one request gets: scores in, tokens and text out, until something ends it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from adaptery.errors import EngineError
from adaptery.serving.engine import Chunk, SamplingParams
from adaptery.serving.torch.sampling import Sampler, scores_of, top_scores
from adaptery.serving.torch.text import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Answer:
    """Chooses tokens and hands them to `deliver` one by one; an error is the last."""

    def __init__(
        self,
        sampling: SamplingParams,
        tokenizer: "PreTrainedTokenizerBase",
        end_ids: frozenset[int],
        deliver: Callable[[Chunk | EngineError], None],
    ) -> None:
        self._sampling = sampling
        self._sampler = Sampler(sampling)
        self._text = TextStream(tokenizer, sampling.stop)
        self._end_ids = end_ids
        self._tokens = 0
        self.deliver = deliver

    def next(self, logits: Tensor) -> Chunk:
        """The next token, by scores of shape (vocabulary,).

        Raises:
            EngineError: a score is not a finite number.
        """
        if not bool(logits.isfinite().all()):
            raise EngineError(
                "The model's scores for this request are not finite numbers: its weights overflow."
            )
        token = self._sampler.choose(logits)
        self._tokens += 1
        text = "" if token in self._end_ids else self._text.push(token)
        reason = self._finish_reason(token)
        if reason is not None and not self._text.stopped:
            text += self._text.flush()
        scores = scores_of(logits, self._sampling.scored)
        if self._sampling.logprobs is None:
            return Chunk(token, text, finish_reason=reason, scores=scores)
        logprob, top = top_scores(logits, token, self._sampling.logprobs)
        return Chunk(token, text, logprob, top, reason, scores)

    def _finish_reason(self, token: int) -> str | None:
        if token in self._end_ids or self._text.stopped:
            return "stop"
        return "length" if self._tokens >= self._sampling.max_tokens else None
