"""A request's tokens, and how far they are computed."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from adaptery.serving.torch.answer import Answer
from adaptery.serving.torch.lora import Adapter


@dataclass(eq=False, kw_only=True)
class Sequence:
    """Prompt and answer so far; keys and values of the first `computed` tokens are in `table`.

    `table` lists the sequence's blocks of the cache in the order of its tokens.
    """

    ids: list[int] = field(kw_only=False)
    adapter: Adapter | None = None
    table: list[int] = field(default_factory=list)
    computed: int = 0

    @property
    def missing(self) -> int:
        """Tokens still to compute before the next one can be chosen."""
        return len(self.ids) - self.computed


@dataclass(eq=False, kw_only=True)
class Request(Sequence):
    """A sequence that somebody waits for. Setting `cancelled` ends it at the next step.

    `seed` says whose prefixes it may share: those of its version and its tenant.
    """

    answer: Answer
    adapter_name: str | None = None
    seed: bytes = b""
    cancelled: bool = False
    verified: int = 0
    """Tokens whose keys and values are known to be finite: they led to finite scores."""


S = TypeVar("S", bound=Sequence, covariant=True)


@dataclass(frozen=True, slots=True)
class Piece(Generic[S]):
    """The next `count` tokens of a sequence, to be computed in one step."""

    sequence: S
    count: int

    @property
    def last(self) -> bool:
        """Whether the sequence's next token can be chosen after it."""
        return self.count == self.sequence.missing
