"""Tokens to text as they come: no half characters, nothing of a stop string."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are not (yet) a character
LONGEST_CHARACTER = 4  # bytes, so at most as many tokens
TOKENIZERS = 4  # remembered


class TextStream:
    """The text of one answer. Special tokens have none."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: tuple[str, ...]) -> None:
        self._decode, self._special = decoder_of(tokenizer)
        self._stop = stop
        self._ids: list[int] = []
        self._begin = 0  # decoding starts here: a token's text can depend on the one before
        self._end = 0  # up to here tokens are text already
        self._held = ""  # text that may become a stop string
        self.stopped = False

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Text that is certain now that `token` is there; sets `stopped` at a stop string.

        With `may_stop` False no stop string counts that begins in this text.
        """
        if token in self._special:
            return ""  # decoded beside others it would come between what belongs together
        self._ids.append(token)
        text = self._new_text(final=False)
        if not may_stop or not self._stop:
            return text
        self._held += text
        return self._release()

    def flush(self) -> str:
        """What was held back, at the end of the answer; a character that stays open decodes so."""
        self._held += self._new_text(final=True)
        text, self._held = self._release() + self._held, ""
        return text

    def _new_text(self, final: bool) -> str:
        """Text of the tokens that are not text yet; none while their last character is open."""
        before = self._decode(self._ids[self._begin : self._end])
        text = self._decode(self._ids[self._begin :])[len(before) :]
        open_tokens = len(self._ids) - self._end
        if text.endswith(REPLACEMENT) and open_tokens < LONGEST_CHARACTER and not final:
            return ""
        self._begin, self._end = self._end, len(self._ids)
        return text

    def _release(self) -> str:
        """Take from the held text what no stop string can claim any more."""
        places = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            text, self._held = self._held[: min(places)], ""
            return text
        keep = max((overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)


@lru_cache(maxsize=TOKENIZERS)
def decoder_of(
    tokenizer: "PreTrainedTokenizerBase",
) -> tuple[Callable[[list[int]], str], frozenset[int]]:
    """How tokens become text, and those that become none."""
    from transformers import TokenizersBackend

    special = frozenset(
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    )
    if getattr(type(tokenizer), "_decode", None) is not TokenizersBackend._decode:
        return lambda ids: without_cleaning(tokenizer, ids), special
    backend = tokenizer.backend_tokenizer  # all that transformers itself asks, at a tenth the time
    return lambda ids: str(backend.decode(ids, skip_special_tokens=True)), special


def without_cleaning(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """The text of tokens as they are, special ones left out."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)
