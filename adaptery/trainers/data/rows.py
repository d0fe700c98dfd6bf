"""The three kinds of rows, whatever file format they came in."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from adaptery.types import canonical_json

MOST_FINDINGS = 5  # how many defects a message lists before it counts the rest


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat whose assistant turns are to be learned."""

    messages: tuple[Message, ...]
    origin: str
    """File and line, for messages to the user."""

    def as_dicts(self) -> list[dict[str, str]]:
        """What chat templates take."""
        return [{"role": m.role, "content": m.content} for m in self.messages]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All before the last assistant turn."""
        last = max(i for i, m in enumerate(self.messages) if m.role == "assistant")
        return self.messages[:last]

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return next(m.content for m in reversed(self.messages) if m.role == "assistant")

    def content(self) -> Any:
        """What the data's digest is taken of."""
        return self.as_dicts()


@dataclass(frozen=True, slots=True)
class Completion:
    """A text that goes on: `completion` is learned, `prompt` is not. Plain text has no prompt.

    No chat template is applied; the end token follows the completion.
    """

    prompt: str
    completion: str
    origin: str

    def content(self) -> Any:
        """What the data's digest is taken of."""
        return {"prompt": self.prompt, "completion": self.completion}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text, or a pair of them, and its class."""

    texts: tuple[str, ...]
    label: str
    origin: str

    def content(self) -> Any:
        """What the data's digest is taken of."""
        return {"texts": list(self.texts), "label": self.label}


Row = Conversation | Completion | Labelled


class Format(Protocol):
    """A layout of rows in a file; what the hook `data_formats` loads."""

    needs: str
    """The columns that it needs, as messages name them."""

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        """Whether a file's first record looks like this format."""

    def parse(self, record: Mapping[str, Any], origin: str) -> Row:
        """One record as a row. Raises `ValueError` with what is wrong in words."""


@dataclass(frozen=True)
class Dataset:
    """The rows of one file, or of one split on the Hub."""

    source: str
    format: str
    rows: list[Row]

    @property
    def digest(self) -> str:
        """SHA-256 of the rows in order, whatever file or format they came from."""
        return data_digest(self.rows)


def data_digest(rows: Iterable[Row]) -> str:
    """SHA-256 of rows in order, whatever file or format they came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row.content()) + b"\n")
    return digest.hexdigest()


def summarize(title: str, findings: list[str]) -> str:
    """A title, the first few findings a line each, and the number of the others."""
    more = len(findings) - MOST_FINDINGS
    lines = [title, *(f"  {finding}" for finding in findings[:MOST_FINDINGS])]
    return "\n".join([*lines, f"  … and {more} more."] if more > 0 else lines)
