"""Conversations as the model will see them: token ids, and which of them are learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.errors import DataError
from adaptery.trainers.data.rows import Conversation, Row

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
    label: int | None = None
    """The class' place among the labels, where the task is to tell classes."""
    segments: tuple[int, ...] = ()
    """Which text a token is of (BERT's token types), where an encoder was pre-trained with it."""

    @property
    def learned(self) -> int:
        """The number of learned tokens; a class that a head tells counts for one."""
        return sum(label != IGNORED for label in self.labels) or int(self.label is not None)


class Encoder:
    """Applies one tokenizer's chat template and marks the assistant's turns.

    Where a turn begins comes from rendering the conversation before it as a question, so any
    template that does not rewrite earlier turns works; nothing is guessed from special strings.

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
        """The template's text; `ask` opens the assistant's next turn.

        Raises:
            DataError: the template refuses the conversation, or is broken.
        """
        try:
            text: Any = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:
            raise DataError(f"the base's chat template cannot render it: {error}.") from error
        return str(text)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """A rendered text's tokens; the template has put in all special ones."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """The tokens of a question, the assistant's turn opened."""
        return self.tokenize(self.render(messages, ask=True))

    def encode_all(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        """Rows in order; `advance` hears how many more are done."""
        examples = []
        for row in rows:
            if not isinstance(row, Conversation):
                raise DataError(f"{row.origin}: the row is no conversation.")
            examples.append(self.encode(row))
            advance(1)
        return examples

    def encode(self, conversation: Conversation) -> Example:
        """Tokenize a conversation; assistant turns are learned, end token included, nothing else.

        Raises:
            DataError: the template refuses it, rewrites earlier turns or drops the end token, or
                an answer holds the end token or merges with the text before it.
        """
        try:
            ids, labels = self.labelled(conversation.as_dicts())
            prompt = self.prompt_ids(conversation.as_dicts()[: len(conversation.prompt)])
        except DataError as error:
            raise DataError(f"{conversation.origin}: {error}") from error
        return Example(ids, labels, prompt, conversation.answer, conversation.origin)

    def labelled(self, messages: list[dict[str, str]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens and labels of a conversation."""
        text = self.render(messages)
        ids = self.tokenize(text)
        labels = [IGNORED] * len(ids)
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                learned = self.answer(messages[: turn + 1], text, ids)
                labels[learned] = ids[learned]
        return ids, tuple(labels)

    def answer(self, messages: list[dict[str, str]], text: str, ids: tuple[int, ...]) -> slice:
        """The place in `ids`, the tokens of `text`, of the last of `messages` and its end token."""
        before, after = self.render(messages[:-1], ask=True), self.render(messages)
        if not after.startswith(before) or not text.startswith(after):
            raise DataError(
                "this base's chat template rewrites earlier turns when later ones follow, so what "
                "the model learns would not be what it is asked. Split the conversation so that it "
                "has one assistant turn, or use another base."
            )
        asked = self.tokenize(before)
        if ids[: len(asked)] != asked:
            raise DataError(
                "an answer's first token merges with the text before it, so it would be asked for "
                "differently than it is learned. Strip white space from its start."
            )
        return slice(len(asked), len(asked) + self.answer_length(messages[-1], after, len(asked)))

    def answer_length(self, message: dict[str, str], text: str, start: int) -> int:
        """The number of tokens of `text` from `start` up to and with the end token."""
        end_token = str(self.tokenizer.eos_token)
        if end_token in message["content"]:
            raise DataError(
                f"an answer holds the end token {end_token!r}, and what follows it would not be "
                "learned. Remove it; the template puts one at the answer's end."
            )
        try:
            return self.tokenize(text).index(self.tokenizer.eos_token_id, start) - start + 1
        except ValueError:
            raise DataError(
                f"the chat template does not end the answer with the end token {end_token!r}, so "
                "the model would never learn to stop. Correct the tokenizer's eos_token or its "
                "template."
            ) from None
