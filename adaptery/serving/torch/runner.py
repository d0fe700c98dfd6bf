"""One step: pieces of sequences in, scores of the next tokens out."""

from collections.abc import Sequence as Many
from itertools import accumulate, groupby

import torch
from torch import Tensor

from adaptery.serving.torch.attention import Batch, Span, causal_mask
from adaptery.serving.torch.cache import SlotCache
from adaptery.serving.torch.lora import ActiveAdapters, Adapter, Segment
from adaptery.serving.torch.model import Decoder
from adaptery.serving.torch.sequence import Piece, Sequence


class Runner:
    """Calls the model on one row of tokens, made of the pieces one after another."""

    def __init__(self, decoder: Decoder, cache: SlotCache, active: ActiveAdapters) -> None:
        self._decoder = decoder
        self._cache = cache
        self._active = active

    def run(self, pieces: Many[Piece[Sequence]]) -> Tensor:
        """Compute the pieces, fastest if those of one adapter stand side by side.

        Returns:
            Scores of the next token for each piece that is its sequence's last, in their order,
            (last pieces, vocabulary), float32 on the CPU.
        """
        ends = list(accumulate(piece.count for piece in pieces))
        self._active.segments = segments(pieces, ends)
        try:
            with torch.inference_mode():
                output = self._decoder.model(
                    input_ids=self._row([i for piece in pieces for i in new_ids(piece)]),
                    position_ids=self._row([i for piece in pieces for i in new_positions(piece)]),
                    use_cache=False,
                    logits_to_keep=self._tensor(
                        [end - 1 for piece, end in zip(pieces, ends, strict=True) if piece.last]
                    ),
                    batch=self._batch(pieces, ends),
                )
        finally:
            self._active.segments = ()
        logits: Tensor = output.logits[0]
        return logits.float().cpu()

    def _batch(self, pieces: Many[Piece[Sequence]], ends: Many[int]) -> Batch:
        spans = []
        for piece, end in zip(pieces, ends, strict=True):
            sequence, count = piece.sequence, piece.count
            mask = causal_mask(count, sequence.computed, self._decoder.device)
            spans.append(Span(end - count, end, sequence.slot, sequence.computed, mask))
        return Batch(tuple(spans), self._cache)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._decoder.device)

    def _row(self, values: list[int]) -> Tensor:
        return self._tensor(values)[None]


def new_ids(piece: Piece[Sequence]) -> list[int]:
    """The tokens of a piece."""
    start = piece.sequence.computed
    return piece.sequence.ids[start : start + piece.count]


def new_positions(piece: Piece[Sequence]) -> range:
    """Where in their sequence the tokens of a piece stand."""
    start = piece.sequence.computed
    return range(start, start + piece.count)


def segments(pieces: Many[Piece[Sequence]], ends: Many[int]) -> list[Segment]:
    """The rows of each adapter; the base's rows are in none."""
    found = []
    placed = zip(pieces, ends, strict=True)
    for adapter, group in groupby(placed, key=lambda place: place[0].sequence.adapter):
        places = list(group)
        if adapter is not None:
            first, begin_end = places[0]
            found.append(Segment(slice(begin_end - first.count, places[-1][1]), adapter))
    return found


def adapter_order(piece: Piece[Sequence]) -> str:
    """Sort key that brings the pieces of one adapter together, the base's first."""
    adapter: Adapter | None = piece.sequence.adapter
    return adapter.name if adapter else ""
