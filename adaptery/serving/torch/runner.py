"""One step: pieces of sequences in, scores of the next tokens out."""

from collections.abc import Iterator
from collections.abc import Sequence as Many
from itertools import accumulate, chain, groupby

import torch
from torch import Tensor

from adaptery.serving.torch.attention import Batch, Span
from adaptery.serving.torch.blocks import BLOCK, needed
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.lora import ActiveAdapters, Update
from adaptery.serving.torch.model import Decoder
from adaptery.serving.torch.sequence import Piece, Sequence

RAGGED = 2  # sequences are read side by side if the longest has at most so many times the blocks


class Runner:
    """Calls the model on one row of tokens, made of the pieces one after another."""

    def __init__(self, decoder: Decoder, cache: KeyValueCache) -> None:
        self._decoder = decoder
        self._cache = cache

    def run(self, pieces: Many[Piece[Sequence]]) -> Tensor:
        """Compute the pieces: single tokens first, the longest sequences first among them.

        Returns:
            Scores of the next token for each piece that is its sequence's last, in their order,
            (last pieces, vocabulary).
        """
        active = self._decoder.active
        adapters = (piece.sequence.adapter for piece in pieces)
        with torch.inference_mode():
            active.arrange(adapter for adapter in adapters if adapter is not None)
            active.updates = list(updates(pieces, active))
            try:
                return self._logits(pieces)
            finally:
                active.updates = ()

    def _logits(self, pieces: Many[Piece[Sequence]]) -> Tensor:
        ends = accumulate(piece.count for piece in pieces)
        wanted = [end - 1 for piece, end in zip(pieces, ends, strict=True) if piece.last]
        output = self._decoder.model(
            input_ids=self._tensor(chain.from_iterable(map(new_ids, pieces)))[None],
            position_ids=self._tensor(chain.from_iterable(map(new_positions, pieces)))[None],
            use_cache=False,
            logits_to_keep=self._tensor(wanted),
            batch=self._batch(pieces),
        )
        logits: Tensor = output.logits[0]
        return logits

    def _batch(self, pieces: Many[Piece[Sequence]]) -> Batch:
        places = self._tensor(chain.from_iterable(map(new_places, pieces)))
        spans, begin = [], 0
        for group in side_by_side(pieces):
            spans.append(self._span(group, begin))
            begin = spans[-1].end
        return Batch(tuple(spans), places, self._cache)

    def _span(self, pieces: Many[Piece[Sequence]], begin: int) -> Span:
        lengths = [needed(piece.sequence.computed + piece.count) for piece in pieces]
        most = max(lengths)
        tables = [
            piece.sequence.table[:own] + [self._cache.nobodys] * (most - own)
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
        return torch.tensor(list(values), dtype=torch.long, device=self._decoder.device)


def new_ids(piece: Piece[Sequence]) -> list[int]:
    """The tokens of a piece."""
    start = piece.sequence.computed
    return piece.sequence.ids[start : start + piece.count]


def new_positions(piece: Piece[Sequence]) -> range:
    """Where in their sequence the tokens of a piece stand."""
    start = piece.sequence.computed
    return range(start, start + piece.count)


def new_places(piece: Piece[Sequence]) -> list[int]:
    """Where in the cache the tokens of a piece stand."""
    table = piece.sequence.table
    return [table[i // BLOCK] * BLOCK + i % BLOCK for i in new_positions(piece)]


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


def updates(pieces: Many[Piece[Sequence]], active: ActiveAdapters) -> Iterator[Update]:
    """What adapters add: once for all single tokens together, then for each adapter's prompts."""
    begin = 0
    for _, group in groupby(pieces, key=owner_of_rows):
        mine = list(group)
        owners = [piece.sequence.adapter for piece in mine for _ in range(piece.count)]
        rows = slice(begin, begin + len(owners))
        begin = rows.stop
        if update := active.update(rows, owners):
            yield update


def owner_of_rows(piece: Piece[Sequence]) -> object:
    """What the rows of pieces must have in common to be computed in one product."""
    return None if piece.count == 1 else (piece.sequence.adapter,)
