"""The same examples as one by one, in a fraction of the time.

Row by row, a conversation is tokenized as a whole, and for each answer once more up to where it
begins and once more up to where it ends. Here it is tokenized once, many rows in one call, and the
places are found in that. What is left of a special token in a text does not depend on what stands
right of it, since tokenizers split texts at special tokens before all else. So only the text from
the last special token before an answer on, `<|im_start|>assistant` and the like, is tokenized on
its own, once for all rows.

Where that does not hold, or anything is not as expected, there is no result, and the caller takes
the exact way.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adaptery.trainers.data.rows import Completion, Conversation, Row
from adaptery.trainers.encoding.example import IGNORED, Example, Unencodable

if TYPE_CHECKING:
    from adaptery.trainers.encoding.encoder import Encoder

THREADS = "TOKENIZERS_PARALLELISM"


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer in a rendered conversation.

    It begins at the character `begin`; before that the text from the special token at the character
    `special` on is `tail`. The answer and its end token lie before the character `end`.
    """

    special: int
    tail: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, and where its answers are."""

    row: Conversation
    text: str
    turns: tuple[Turn, ...]


class Quick:
    """Encodes many rows at once for an `Encoder`."""

    def __init__(self, encoder: "Encoder") -> None:
        self.encoder = encoder
        self.last_tail = ""

    def examples(self, rows: Sequence[Row]) -> list[Example | None]:
        """An example for each row, none where only the exact way can tell."""
        found: list[Example | None] = [None] * len(rows)
        if not self.encoder.tokenizer.is_fast:
            return found
        chats = {
            n: self.rendered(row) for n, row in enumerate(rows) if isinstance(row, Conversation)
        }
        texts = {n: row for n, row in enumerate(rows) if isinstance(row, Completion)}
        with every_core():
            rendered = {n: chat for n, chat in chats.items() if chat}
            for n, example in zip(rendered, self.answers(list(rendered.values())), strict=True):
                found[n] = example
            for n, example in zip(texts, self.completions(list(texts.values())), strict=True):
                found[n] = example
        return found

    def rendered(self, row: Conversation) -> Rendered | None:
        """The row as text, if the template and the answers pass the checks that need no tokens."""
        encoder, messages, turns = self.encoder, row.as_dicts(), []
        try:
            text = encoder.render(messages)
            for turn, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                last = turn == len(messages) - 1
                before = encoder.render(messages[:turn], ask=True)
                after = text if last else encoder.render(messages[: turn + 1])
                if not after.startswith(before) or not text.startswith(after):
                    return None
                encoder.require_no_end(message["content"])
                special = self.last_special(before)
                turns.append(Turn(special, before[special:], len(before), len(after)))
        except Unencodable:
            return None
        return Rendered(row, text, tuple(turns))

    def last_special(self, before: str) -> int:
        """Where the last special token of a text stands, 0 without one."""
        if self.last_tail and before.endswith(self.last_tail):
            return len(before) - len(self.last_tail)
        place = max((before.rfind(token) for token in self.specials), default=0)
        self.last_tail = before[place:] if place > 0 else ""
        return max(place, 0)

    @cached_property
    def specials(self) -> dict[str, int]:
        """The tokens that texts are split at before anything else, and their ids."""
        return {
            token.content: number
            for number, token in self.encoder.tokenizer.added_tokens_decoder.items()
            if token.special and not token.normalized
        }

    def answers(self, chats: Sequence[Rendered]) -> list[Example | None]:
        """An example for each conversation."""
        tails = sorted({turn.tail for chat in chats for turn in chat.turns})
        known = dict(zip(tails, (encoding.ids for encoding in self.tokenize(tails)), strict=True))
        encodings = self.tokenize([chat.text for chat in chats])
        return [
            self.example(chat, encoding, known)
            for chat, encoding in zip(chats, encodings, strict=True)
        ]

    def example(self, chat: Rendered, encoding: Any, tails: dict[str, list[int]]) -> Example | None:
        """The example of one conversation from its tokens and those of the tails."""
        ids: list[int] = encoding.ids
        labels = [IGNORED] * len(ids)
        begin = 0
        for turn in chat.turns:
            tail = tails[turn.tail]
            first = encoding.char_to_token(turn.special) if turn.special else 0
            if first is None or ids[first : first + len(tail)] != tail:
                return None
            if turn.special and ids[first] not in self.specials.values():
                return None
            begin = first + len(tail)
            end = self.end(encoding, ids, begin, turn, len(chat.text))
            if end is None:
                return None
            labels[begin:end] = ids[begin:end]
        row = chat.row
        return Example(tuple(ids), tuple(labels), tuple(ids[:begin]), row.answer, row.origin)

    def end(self, encoding: Any, ids: list[int], begin: int, turn: Turn, length: int) -> int | None:
        """Where in `ids` the answer that begins at `begin` has ended."""
        end_token = self.encoder.end
        try:
            place = ids.index(end_token, begin)
        except ValueError:
            return None
        if turn.end < length and (
            end_token not in self.specials.values() or encoding.token_to_chars(place)[1] > turn.end
        ):
            return None
        return place + 1

    def completions(self, rows: Sequence[Completion]) -> list[Example | None]:
        """An example for each row."""
        wholes = self.tokenize([row.prompt + row.completion for row in rows])
        prompts = self.tokenize([row.prompt for row in rows])
        return [
            self.completed(row, tuple(whole.ids), tuple(prompt.ids))
            for row, whole, prompt in zip(rows, wholes, prompts, strict=True)
        ]

    def completed(
        self, row: Completion, ids: tuple[int, ...], prompt: tuple[int, ...]
    ) -> Example | None:
        try:
            return self.encoder.completed(row, ids, prompt)
        except Unencodable:
            return None

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """The tokens of texts, with no special ones but those that stand in them."""
        if not texts:
            return []
        batch = self.encoder.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(batch.encodings)


@contextmanager
def every_core() -> Iterator[None]:
    """Let the tokenizer use threads, which the command line keeps from it because of forks."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
