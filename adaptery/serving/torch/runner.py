"""One step: pieces of sequences in, scores of the next tokens out."""

from collections.abc import Iterator
from collections.abc import Sequence as Many
from itertools import accumulate, chain

import torch
from torch import Tensor

from adaptery.serving.torch.batch import Batch
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.model import Decoder
from adaptery.serving.torch.sequence import Piece, Sequence


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
        with torch.inference_mode():
            active.begin([(piece.sequence.adapter, piece.count) for piece in pieces])
            try:
                return self._logits(pieces)
            finally:
                active.end()

    def _logits(self, pieces: Many[Piece[Sequence]]) -> Tensor:
        ends = accumulate(piece.count for piece in pieces)
        wanted = [end - 1 for piece, end in zip(pieces, ends, strict=True) if piece.last]
        output = self._decoder.model(
            input_ids=self._tensor(chain.from_iterable(map(new_ids, pieces)))[None],
            position_ids=self._tensor(chain.from_iterable(map(new_positions, pieces)))[None],
            use_cache=False,
            logits_to_keep=self._tensor(wanted),
            batch=Batch(pieces, self._cache, self._decoder.device, self._decoder.kernels),
        )
        logits: Tensor = output.logits[0]
        return logits

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
