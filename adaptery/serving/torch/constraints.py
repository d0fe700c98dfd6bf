"""Answers in a given form: which tokens may come next so that the answer can still match it."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from adaptery.errors import EngineError, UsageError
from adaptery.serving.grammar import Grammar, limits, require_llguidance, source
from adaptery.serving.torch.sampling import Floats

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase

TOKENIZERS = 4  # whose grammars are kept in this process
GRAMMARS = 256  # kept for each of them


class Constraint:
    """One answer's progress through its grammar."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def apply(self, scores: Floats) -> Floats:
        """`scores` of shape (vocabulary,), minus infinity for tokens that cannot come next.

        Raises:
            EngineError: the grammar has become too much work.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(len(scores), np.uint8)  # a model may have more tokens than its tokenizer
        known = np.unpackbits(bits, bitorder="little")[: len(scores)]
        allowed[: len(known)] = known
        return scores + np.log(allowed, dtype=np.float32)  # 0 or minus infinity

    def push(self, token: int) -> None:
        """The answer has one more token. Raises `EngineError` if it must not."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(
                "The answer cannot be held to the form asked for: "
                f"{self._matcher.get_error().splitlines()[0]}"
            )


class Grammars:
    """The grammars of one tokenizer's answers, compiled in a thread of their own and kept."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_ids: frozenset[int]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="adaptery-grammar")
        self._tokenizer = self._pool.submit(tokens_of, tokenizer, end_ids)
        self._compiled = lru_cache(maxsize=GRAMMARS)(self._compile)

    def get(self, grammar: Grammar) -> "Future[LLMatcher]":
        """A matcher at its beginning, to be copied; or what is wrong with the grammar."""
        return self._compiled(grammar)

    def _compile(self, grammar: Grammar) -> "Future[LLMatcher]":
        return self._pool.submit(lambda: matcher(self._tokenizer.result(), grammar))


@lru_cache(maxsize=TOKENIZERS)
def grammars_of(tokenizer: "PreTrainedTokenizerBase", end_ids: frozenset[int]) -> Grammars:
    """The one `Grammars` of a tokenizer, which begins to read its vocabulary.

    That takes 45 MB for 32,000 tokens and stops all Python threads for a fifth of a second (for
    152,000 a second), once, when the first answer in a given form is asked for.
    """
    return Grammars(tokenizer, end_ids)


def tokens_of(tokenizer: "PreTrainedTokenizerBase", end_ids: frozenset[int]) -> "LLTokenizer":
    """The vocabulary as llguidance has it.

    Raises:
        EngineError: it cannot read this tokenizer, or is not installed.
    """
    try:
        require_llguidance()
        from llguidance.hf import from_tokenizer

        return from_tokenizer(tokenizer, eos_token=sorted(end_ids) or None)
    except UsageError as error:
        raise EngineError(str(error)) from error
    except Exception as error:  # whatever llguidance does not like about a tokenizer
        raise EngineError(f"Answers of this base cannot be held to a form: {error}") from error


def matcher(tokens: "LLTokenizer", grammar: Grammar) -> "LLMatcher":
    """`grammar` compiled. Raises `EngineError`."""
    from llguidance import LLMatcher

    try:
        compiled = LLMatcher(tokens, source(grammar), log_level=0, limits=limits())
    except ValueError as error:
        raise EngineError(f"The form asked for cannot be obeyed: {error}") from error
    if compiled.is_error():
        raise EngineError(f"The form asked for cannot be obeyed: {compiled.get_error()}")
    return compiled
