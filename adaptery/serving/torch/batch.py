"""The rows of one step: which sequence each belongs to, and where its past is in the cache.

Attention asks for what it needs in the form that it can use; each is made once, for all layers.
"""

from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from adaptery.serving.torch.blocks import BLOCK, needed
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.sequence import Piece, Sequence

RAGGED = 2  # sequences are read side by side if the longest has at most so many times the blocks


@dataclass(eq=False)
class Span:
    """Consecutive rows of the batch: `count` new tokens of each of some sequences.

    Args:
        begin: the first row.
        starts: positions of the first new token, (sequences,).
        table: numbers of the sequences' blocks, (sequences, blocks).
        fresh: whether nothing comes before the new tokens; then the cache need not be read.
    """

    begin: int
    count: int
    starts: Tensor
    table: Tensor
    fresh: bool
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.begin + self.count * len(self.starts)

    def mask(self, keys: int, window: int | None, like: Tensor) -> Tensor:
        """What is added to scores, (sequences, 1, count, keys): 0, or -inf for what is not seen.

        A token sees itself and what comes before, at most `window` tokens. Made once per step.
        """
        key = (window, like.dtype)
        if key not in self._masks:
            new = self.starts[:, None] + torch.arange(self.count, device=like.device)
            behind = new[:, :, None] - torch.arange(keys, device=like.device)
            unseen = behind < 0 if window is None else (behind < 0) | (behind >= window)
            zero = torch.zeros(unseen.shape, dtype=like.dtype, device=like.device)
            self._masks[key] = zero.masked_fill_(unseen, -torch.inf)[:, None]
        return self._masks[key]


class Batch:
    """The rows of pieces one after another, single tokens first, the longest sequences first."""

    def __init__(
        self,
        pieces: Many[Piece[Sequence]],
        cache: KeyValueCache,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        self._given = pieces
        self._device = device
        self.cache = cache
        self.kernels = kernels

    # For PyTorch's attention.

    @cached_property
    def places(self) -> Tensor:
        """Where in the cache the keys and values of the rows go, (tokens,)."""
        return self._tensor(chain.from_iterable(map(new_places, self._given)))

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The rows in groups that are looked at together."""
        spans, begin = [], 0
        for group in side_by_side(self._given):
            spans.append(self._span(group, begin))
            begin = spans[-1].end
        return tuple(spans)

    def _span(self, pieces: Many[Piece[Sequence]], begin: int) -> Span:
        lengths = [blocks(piece) for piece in pieces]
        most = max(lengths)
        tables = [
            piece.sequence.table[:own] + [self.cache.nobodys] * (most - own)
            for piece, own in zip(pieces, lengths, strict=True)
        ]
        starts = [piece.sequence.computed for piece in pieces]
        return Span(
            begin,
            pieces[0].count,
            self._tensor(starts),
            self._tensor(chain.from_iterable(tables)).view(len(pieces), most),
            fresh=not any(starts),
        )

    def _tensor(self, values: "Iterator[int] | Many[int]") -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self._device)

    # For that of the kernels.

    @cached_property
    def pieces(self) -> "array[int]":
        """Of each piece its first row, rows, position of the first, and where its table begins."""
        numbers: array[int] = array("q")
        row = table = 0
        for piece in self._given:
            numbers.extend((row, piece.count, piece.sequence.computed, table))
            row, table = row + piece.count, table + blocks(piece)
        return numbers

    @cached_property
    def tables(self) -> "array[int]":
        """The numbers of the pieces' blocks, one piece after another."""
        tables = (piece.sequence.table[: blocks(piece)] for piece in self._given)
        return array("i", chain.from_iterable(tables))


def new_places(piece: Piece[Sequence]) -> list[int]:
    """Where in the cache the tokens of a piece stand."""
    table, start = piece.sequence.table, piece.sequence.computed
    return [table[i // BLOCK] * BLOCK + i % BLOCK for i in range(start, start + piece.count)]


def side_by_side(pieces: Many[Piece[Sequence]]) -> Iterator[list[Piece[Sequence]]]:
    """Single tokens of sequences of like length together, longer pieces each by itself."""
    group: list[Piece[Sequence]] = []
    for piece in pieces:
        if group and (piece.count > 1 or blocks(group[0]) > RAGGED * blocks(piece)):
            yield group
            group = []
        group.append(piece)
        if piece.count > 1:
            yield group
            group = []
    if group:
        yield group


def blocks(piece: Piece[Sequence]) -> int:
    """How many of the cache the piece's sequence fills or begins, once it is computed."""
    return needed(piece.sequence.computed + piece.count)
