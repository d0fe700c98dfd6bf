"""Conversations as the model will see them: token ids, and which of them are learned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.errors import DataError
from adaptery.trainers.data import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `labels` is `ids` where learned and `IGNORED` elsewhere; both of shape (tokens,).

    `prompt` is what a server would be asked with: all before the last answer.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: str
    origin: str

    @property
    def learned(self) -> int:
        """The number of learned tokens."""
        return sum(label != IGNORED for label in self.labels)


class Encoder:
    """Applies one tokenizer's chat template and marks the assistant's turns.

    The spans come from rendering ever longer prefixes of the conversation, so any template that
    does not rewrite earlier turns works; nothing is guessed from special strings.

    Raises:
        DataError: the tokenizer has no chat template or no end token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "The base model's tokenizer has no chat template, so chat messages cannot be "
                "rendered for it. Use the base's instruction-tuned sibling."
            )
        if tokenizer.eos_token_id is None:
            raise DataError(
                "The base model's tokenizer has no end token, so answers could never end."
            )
        self.tokenizer = tokenizer

    def render(self, messages: list[dict[str, str]], *, ask: bool = False) -> str:
        """The template's text; `ask` opens the assistant's next turn."""
        text: Any = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask
        )
        return str(text)

    def prompt_ids(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """The tokens of a question, the assistant's turn opened."""
        ids = self.tokenizer(self.render(messages, ask=True), add_special_tokens=False)["input_ids"]
        return tuple(ids)

    def encode(self, conversation: Conversation) -> Example:
        """Tokenize a conversation; assistant turns are learned, end token included, nothing else.

        Raises:
            DataError: the template rewrites earlier turns, drops the end token, or an answer's
                first token would merge with the text before it.
        """
        messages = conversation.as_dicts()
        text = self.render(messages)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = encoded["input_ids"]
        offsets: list[tuple[int, int]] = encoded["offset_mapping"]
        labels = [IGNORED] * len(ids)
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                start, end = self.span(messages, turn, text, conversation.origin)
                for token in self.learned_tokens(ids, offsets, start, end, conversation.origin):
                    labels[token] = ids[token]
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompt = self.prompt_ids(messages[:last])
        return Example(tuple(ids), tuple(labels), prompt, conversation.answer, conversation.origin)

    def span(
        self, messages: list[dict[str, str]], turn: int, text: str, origin: str
    ) -> tuple[int, int]:
        """The characters of `text` that an assistant turn adds behind its opening."""
        before = self.render(messages[:turn], ask=True)
        after = self.render(messages[: turn + 1])
        if not after.startswith(before) or not text.startswith(after):
            raise DataError(
                f"{origin}: this base's chat template rewrites earlier turns when later ones "
                "follow, so what the model learns would not be what it is asked. Split the "
                "conversation so that it has one assistant turn, or use another base."
            )
        return len(before), len(after)

    def learned_tokens(
        self, ids: list[int], offsets: list[tuple[int, int]], start: int, end: int, origin: str
    ) -> list[int]:
        """The indices of the tokens in characters [start, end), up to and with the end token."""
        inside = [i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
        if not inside or offsets[inside[0]][0] != start:
            raise DataError(
                f"{origin}: the answer's first token merges with the text before it, so it would "
                "be asked for differently than it is learned. Strip white space from its start."
            )
        for position, token in enumerate(inside):
            if ids[token] == self.tokenizer.eos_token_id:
                return inside[: position + 1]
        raise DataError(
            f"{origin}: the chat template does not end the answer with the end token "
            f"{self.tokenizer.eos_token!r}, so the model would never learn to stop. "
            "Correct the tokenizer's eos_token or its template."
        )
