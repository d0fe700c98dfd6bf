"""Rows laid end to end in one row of tokens, so that no linear layer sees padding.

The model is told where rows begin and end by a `Layout`, which travels through its keyword
arguments down to the attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad

from adaptery.trainers.encoding import IGNORED

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one row, of the same length."""

MULTIPLE = 64
"""Token counts are multiples of this: oneDNN makes and keeps code for every shape that it meets."""
SLOTS = 32
"""And so are the lengths that rows are padded to inside the attention."""
KEPT = 16
"""And so are the numbers of positions whose logits are computed."""


@dataclass(frozen=True)
class Layout:
    """Which tokens are whose, and what is to be learned where.

    Rows stand one after another from the first token on; what is left at the end is filling.
    """

    lengths: tuple[int, ...]
    tokens: int
    """All tokens, filling included."""
    kept: Tensor
    """Where logits are computed: where a token to be learned is predicted, then filling."""
    targets: Tensor
    """The tokens to be learned, (learned,)."""
    row: Tensor
    """The rows that they are in, (learned,)."""

    @property
    def learned(self) -> int:
        """Tokens to be learned."""
        return len(self.targets)

    @property
    def filled(self) -> int:
        """Tokens that belong to rows."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    @cached_property
    def width(self) -> int:
        """The length that rows are padded to inside the attention."""
        if self.regular:
            return self.longest
        return -(-self.longest // SLOTS) * SLOTS

    @property
    def regular(self) -> bool:
        """Whether all rows have the same length and there is no filling."""
        return len(set(self.lengths)) == 1 and self.filled == self.tokens

    @cached_property
    def slots(self) -> Tensor:
        """Each row token's place among rows padded to `width`, (filled,)."""
        lengths = torch.tensor(self.lengths)
        starts = torch.arange(len(self.lengths)) * self.width
        shift = starts - (lengths.cumsum(0) - lengths)
        return (torch.arange(self.filled) + shift.repeat_interleave(lengths)).to(self.kept.device)


@dataclass(frozen=True)
class Packed:
    """A micro-batch as the model takes it. `ids`, `positions` and `labels`: (1, tokens)."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    layout: Layout

    def to(self, device: torch.device | str) -> "Packed":
        """The same on another device."""
        layout = replace(self.layout, **on_device(self.layout, device))
        return replace(self, layout=layout, **on_device(self, device))


def on_device(value: Layout | Packed, device: torch.device | str) -> dict[str, Tensor]:
    tensors = {field.name: getattr(value, field.name) for field in fields(value)}
    return {
        name: tensor.to(device, non_blocking=True)
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    }


def pack(rows: Sequence[Row], multiple: int = MULTIPLE, fill: int = 0) -> Packed:
    """Lay rows end to end, then `fill` tokens up to a multiple of `multiple`.

    A row's first token is never learned, because nothing of the row stands before it.
    """
    lengths = tuple(len(ids) for ids, _ in rows)
    spare = -sum(lengths) % multiple
    ids = [token for tokens, _ in rows for token in tokens]
    labels = [label for _, row_labels in rows for label in (IGNORED, *row_labels[1:])]
    positions = [place for length in lengths for place in range(length)]
    filled_labels = torch.tensor(labels + [IGNORED] * spare)
    learned = (filled_labels != IGNORED).nonzero().flatten()
    ends = torch.tensor(list(accumulate(lengths)))
    return Packed(
        ids=torch.tensor([ids + [fill] * spare]),
        positions=torch.tensor([positions + list(range(spare))]),
        labels=filled_labels[None],
        layout=Layout(
            lengths=lengths,
            tokens=len(ids) + spare,
            kept=pad(learned - 1, (0, -len(learned) % KEPT)),
            targets=filled_labels[learned],
            row=torch.bucketize(learned, ends, right=True),
        ),
    )
