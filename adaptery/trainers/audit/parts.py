"""What is audited, and by which rules."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from adaptery.trainers.data.rows import Completion, Conversation, Dataset, Labelled, Row
from adaptery.trainers.encoding import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_CLASSES = 64  # with more distinct answers than this, rows are texts rather than classes


@dataclass(frozen=True)
class Rules:
    """What rows must obey. `begin` and `end` are the tokenizer's BOS and end token."""

    max_length: int
    too_long: Literal["refuse", "drop"] = "refuse"
    limit: int | None = None
    """Tokens that the base can take at all."""
    begin: int | None = None
    end: int | None = None
    special: re.Pattern[str] | None = None
    """Texts that the tokenizer reads as special tokens, wherever they stand."""
    kind: Literal["sft", "classify", "pair"] = "sft"
    labels: tuple[str, ...] = ()
    """The classes that there may be; all that are found in the first part if none are given."""
    words: Mapping[str, tuple[int, ...]] | None = None
    """The tokens of each label's word, where classes are told by words."""

    @classmethod
    def of(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        too_long: Literal["refuse", "drop"] = "refuse",
        kind: Literal["sft", "classify", "pair"] = "sft",
        labels: tuple[str, ...] = (),
        words: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "Rules":
        """The rules for a base's tokenizer."""
        limit = tokenizer.model_max_length
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        return cls(
            max_length=max_length,
            too_long=too_long,
            limit=limit if limit < 1 << 30 else None,  # transformers writes 1e30 for unknown
            begin=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
            special=re.compile("|".join(map(re.escape, special))) if special else None,
            kind=kind,
            labels=labels,
            words=words,
        )


@dataclass(frozen=True)
class Part:
    """The rows of one file and, if there is a tokenizer, an example for each."""

    source: str
    format: str
    rows: Sequence[Row]
    examples: Sequence[Example] = ()

    @classmethod
    def of(cls, data: Dataset, examples: Sequence[Example] = ()) -> "Part":
        return cls(data.source, data.format, data.rows, examples)

    @cached_property
    def prompts(self) -> list[bytes]:
        """What each row asks, as digests."""
        return [digest_of(question(row)) for row in self.rows]

    @cached_property
    def loose_prompts(self) -> list[bytes]:
        """The same with case, white space and the order of two texts set aside."""
        return [digest_of(sorted(normal(text) for text in question(row))) for row in self.rows]

    @cached_property
    def answers(self) -> list[str]:
        """What each row is to be answered with; empty for plain text, which is all question."""
        return [answer(row) for row in self.rows]

    def labelled(self, kind: str) -> bool:
        """Whether rows certainly have classes, by the task or by their columns."""
        return kind != "sft" or all(isinstance(row, Labelled) for row in self.rows)

    def classes(self, kind: str) -> list[str] | None:
        """Each row's class, if rows have classes: certainly, or because there are few distinct
        answers, each for several rows."""
        if self.labelled(kind):
            return self.answers
        distinct = set(self.answers)
        few = len(distinct) <= MOST_CLASSES and 2 * len(distinct) <= len(self.answers)
        return self.answers if few and "" not in distinct else None


def texts_of(row: Row) -> list[str]:
    """All texts of a row that the model reads."""
    if isinstance(row, Labelled):
        return list(row.texts)
    if isinstance(row, Completion):
        return [row.prompt, row.completion]
    return [message.content for message in row.messages]


def question(row: Row) -> list[str]:
    """The texts that a row asks with."""
    if isinstance(row, Labelled):
        return list(row.texts)
    if isinstance(row, Completion):
        return [row.prompt or row.completion]
    return [f"{message.role}: {message.content}" for message in row.prompt]


def answer(row: Row) -> str:
    """What a row is to be answered with."""
    if isinstance(row, Labelled):
        return row.label
    if isinstance(row, Conversation):
        return row.answer.strip()
    return row.completion.strip() if row.prompt else ""


def normal(text: str) -> str:
    """A text without its case and with single spaces."""
    return " ".join(text.casefold().split())


def digest_of(texts: Sequence[str]) -> bytes:
    """16 bytes that stand for texts, so that large data need not be held twice."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()
