"""Rows laid end to end in one row of tokens, so that no linear layer sees padding.

What all rows of a micro-batch begin with, such as the same instruction, may stand there once: with
causal attention nothing in it depends on what follows, so each row's losses and gradients stay what
they are. The model is told where rows begin and end by a `Layout`, which travels through its
keyword arguments down to the attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate, takewhile

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
SHARED = 8
"""And so are the numbers of tokens that rows share; fewer than twice that are not worth it."""


@dataclass(frozen=True)
class Block:
    """Rows that the attention computes together: tokens `begin` to `end`, padded to `width`.

    `slots` is each token's place among the padded rows, None where none needs padding.
    """

    begin: int
    end: int
    rows: int
    width: int
    slots: Tensor | None


@dataclass(frozen=True)
class Layout:
    """Which tokens are whose, and what is to be learned where.

    First stand the tokens that all rows begin with, then the rest of one row after another; what is
    left at the end is filling.
    """

    lengths: tuple[int, ...]
    """Tokens of each row, without the shared ones."""
    shared: int
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
        """Tokens that are not filling."""
        return self.shared + sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, the shared ones included."""
        return self.shared + max(self.lengths)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The shared tokens, if there are any, and the rows, which see them."""
        head = (Block(0, self.shared, 1, self.shared, None),) if self.shared else ()
        return (*head, self.rest)

    @property
    def rest(self) -> Block:
        """The rows without what they share."""
        count, longest = len(self.lengths), max(self.lengths)
        if min(self.lengths) == longest and longest % SLOTS == 0:
            return Block(self.shared, self.filled, count, longest, None)
        width = -(-longest // SLOTS) * SLOTS
        lengths = torch.tensor(self.lengths)
        shift = torch.arange(count) * width - (lengths.cumsum(0) - lengths)
        slots = torch.arange(self.filled - self.shared) + shift.repeat_interleave(lengths)
        return Block(self.shared, self.filled, count, width, slots.to(self.kept.device))


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


def pack(
    rows: Sequence[Row], multiple: int = MULTIPLE, fill: int = 0, share: bool = False
) -> Packed:
    """Lay rows end to end, then `fill` tokens up to a multiple of `multiple`.

    A row's first token is never learned, because nothing of the row stands before it.

    Args:
        share: let what all rows begin with stand there once.
    """
    shared = common_beginning(rows) if share else 0
    lengths = tuple(len(ids) - shared for ids, _ in rows)
    spare = -(shared + sum(lengths)) % multiple
    ids = [*rows[0][0][:shared], *(token for tokens, _ in rows for token in tokens[shared:])]
    labels = [IGNORED] * shared
    positions = list(range(shared))
    for length, (_, row_labels) in zip(lengths, rows, strict=True):
        labels += row_labels[shared:] if shared else (IGNORED, *row_labels[1:])
        positions += range(shared, shared + length)
    filled_labels = torch.tensor(labels + [IGNORED] * spare)
    learned = (filled_labels != IGNORED).nonzero().flatten()
    ends = torch.tensor(list(accumulate(lengths, initial=shared))[1:])
    return Packed(
        ids=torch.tensor([ids + [fill] * spare]),
        positions=torch.tensor([positions + list(range(spare))]),
        labels=filled_labels[None],
        layout=Layout(
            lengths=lengths,
            shared=shared,
            tokens=len(ids) + spare,
            kept=pad(learned - 1, (0, -len(learned) % KEPT)),
            targets=filled_labels[learned],
            row=torch.bucketize(learned, ends, right=True),
        ),
    )


def common_beginning(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, before the first that is learned; 0 if too few."""
    if len(rows) == 1:
        return 0
    first_learned = min(
        next((place for place, label in enumerate(labels) if label != IGNORED), len(ids))
        for ids, labels in rows
    )
    columns = zip(*(ids[: max(0, first_learned - 1)] for ids, _ in rows), strict=False)
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    same = min(same, min(len(ids) for ids, _ in rows) - 1) // SHARED * SHARED
    return same if same >= 2 * SHARED else 0
