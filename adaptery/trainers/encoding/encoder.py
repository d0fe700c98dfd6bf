"""Rows to token ids, by the base's own tokenizer and chat template."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from adaptery.errors import DataError
from adaptery.trainers.data.findings import DefectiveData, Finding
from adaptery.trainers.data.rows import Completion, Conversation, Row
from adaptery.trainers.encoding.example import IGNORED, Example, Unencodable
from adaptery.trainers.encoding.quick import Quick

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512  # rows that are tokenized in one call


class Encoder:
    """Applies one tokenizer and its chat template, and marks what is learned.

    Where an answer begins comes from rendering the conversation before it as a question, so any
    template that does not rewrite earlier turns works; nothing is guessed from special strings.

    Raises:
        DataError: the tokenizer has no end token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if tokenizer.eos_token_id is None:
            raise DataError(
                "The base model's tokenizer has no end token, so answers could never end."
            )
        self.tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)
        self.end_token = str(tokenizer.eos_token)

    def encode_all(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        """Every row, several times faster than one by one and with the same result.

        Args:
            advance: is told how many rows more are done.

        Raises:
            DefectiveData: some rows cannot be learned from, for the reasons that `encode` and
                `complete` give; all reasons, each with all its rows.
        """
        examples, failures = [], []
        for result in self.attempts(rows, advance):
            if isinstance(result, Example):
                examples.append(result)
            else:
                failures.append(result)
        if failures:
            raise DefectiveData(gather(failures))
        return examples

    def attempts(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> Iterator[Example | Unencodable]:
        """Every row, or why it cannot be encoded."""
        quick = Quick(self)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row, example in zip(chunk, quick.examples(chunk), strict=True):
                yield example or self.attempt(row)
            advance(len(chunk))

    def attempt(self, row: Row) -> Example | Unencodable:
        """One row, or why it cannot be encoded."""
        try:
            if isinstance(row, Conversation):
                return self.encode(row)
            if isinstance(row, Completion):
                return self.complete(row)
        except Unencodable as error:
            return error
        return Unencodable(
            "wrong-task",
            "the row holds a class and no answer to learn.",
            "Set task.kind to classify or pair.",
            row.origin,
        )

    def encode(self, conversation: Conversation) -> Example:
        """Tokenize a conversation; assistant turns are learned, end token included, nothing else.

        Raises:
            Unencodable: there is no chat template, or it refuses the conversation, rewrites earlier
                turns or drops the end token, or an answer holds the end token or merges with the
                text before it.
        """
        messages = conversation.as_dicts()
        prompt: tuple[int, ...] = ()
        try:
            text = self.render(messages)
            ids = self.tokenize(text)
            labels = [IGNORED] * len(ids)
            for turn, message in enumerate(messages):
                if message["role"] == "assistant":
                    learned = self.answer(messages[: turn + 1], text, ids)
                    labels[learned] = ids[learned]
                    prompt = ids[: learned.start]
        except Unencodable as error:
            raise error.at(conversation.origin) from error
        return Example(ids, tuple(labels), prompt, conversation.answer, conversation.origin)

    def answer(self, messages: list[dict[str, str]], text: str, ids: tuple[int, ...]) -> slice:
        """The place in `ids`, the tokens of `text`, of the last of `messages` and its end token."""
        before, after = self.render(messages[:-1], ask=True), self.render(messages)
        if not after.startswith(before) or not text.startswith(after):
            raise Unencodable(
                "template-rewrites",
                "this base's chat template rewrites earlier turns when later ones follow, so what "
                "the model learns would not be what it is asked.",
                "Split the conversation so that it has one assistant turn, or use another base.",
            )
        asked = self.tokenize(before)
        if ids[: len(asked)] != asked:
            raise Unencodable(
                "merged-answer",
                "an answer's first token merges with the text before it, so it would be asked for "
                "differently than it is learned.",
                "Strip white space from its start.",
            )
        self.require_no_end(messages[-1]["content"])
        try:
            end = self.tokenize(after).index(self.end, len(asked))
        except ValueError:
            raise Unencodable(
                "no-end-token",
                f"the chat template does not end the answer with the end token {self.end_token!r}, "
                "so the model would never learn to stop.",
                "Correct the tokenizer's eos_token or its template.",
            ) from None
        return slice(len(asked), end + 1)

    def complete(self, row: Completion) -> Example:
        """Tokenize a text that goes on: what the tokenizer puts before every text, once; the
        prompt; the completion and the end token, which are learned.

        Raises:
            Unencodable: the completion holds the end token, or merges with the prompt's end.
        """
        ids = self.tokenize(row.prompt + row.completion)
        return self.completed(row, ids, self.tokenize(row.prompt))

    def completed(self, row: Completion, ids: tuple[int, ...], prompt: tuple[int, ...]) -> Example:
        """A completion of the tokens `ids`, of which the first are `prompt`."""
        try:
            self.require_no_end(row.completion)
            if ids[: len(prompt)] != prompt:
                raise Unencodable(
                    "merged-answer",
                    "the completion's first token merges with the prompt's end, so it would be "
                    "asked for differently than it is learned.",
                    "Move white space from the prompt's end to the completion's start.",
                )
        except Unencodable as error:
            raise error.at(row.origin) from error
        if ids[: len(self.opening)] != self.opening:
            ids, prompt = self.opening + ids, self.opening + prompt
        labels = (IGNORED,) * len(prompt) + ids[len(prompt) :] + (self.end,)
        return Example((*ids, self.end), labels, prompt, row.completion, row.origin)

    def require_no_end(self, answer: str) -> None:
        if self.end_token in answer:
            raise Unencodable(
                "end-token-inside",
                f"an answer holds the end token {self.end_token!r}, and what follows it would not "
                "be learned.",
                "Remove it; one is put at every answer's end.",
            )

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts before every text, such as BOS."""
        special = set(self.tokenizer.all_special_ids)
        ids = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        return tuple(takewhile(lambda token: token in special, ids))

    def render(self, messages: list[dict[str, str]], *, ask: bool = False) -> str:
        """The template's text; `ask` opens the assistant's next turn.

        Raises:
            Unencodable: there is no template, or it refuses the conversation, or is broken.
        """
        if not self.tokenizer.chat_template:
            raise Unencodable(
                "no-template",
                "The base model's tokenizer has no chat template, so chat messages cannot be "
                "rendered for it.",
                "Use the base's instruction-tuned sibling, or rows of prompt and completion.",
            )
        try:
            text: Any = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:
            raise Unencodable(
                "template-fails",
                f"the base's chat template cannot render it: {error}.",
                "Change the row to what the template takes.",
            ) from error
        return str(text)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """A text's tokens, with no special ones but those that stand in it."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def prompt_ids(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """The tokens of a question, the assistant's turn opened."""
        return self.tokenize(self.render(messages, ask=True))


def gather(failures: Iterable[Unencodable]) -> list[Finding]:
    """Failures as findings, one for each reason."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for failure in failures:
        places.setdefault((failure.code, failure.message, failure.remedy), []).append(
            failure.origin
        )
    return [
        Finding(code, "error", f"row(s) cannot be learned from: {message}", remedy, tuple(rows))
        for (code, message, remedy), rows in places.items()
    ]
