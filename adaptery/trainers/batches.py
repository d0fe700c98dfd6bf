"""Rows into batches: which rows go together, in what order; and padding, where rows need it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptery.trainers.encoding import IGNORED, Example

if TYPE_CHECKING:
    import torch

WINDOW = 32  # batches within which rows of like length are put together
# Widths are multiples of this: oneDNN makes and keeps code for every shape that it meets, and with
# all of them a run would hold hundreds of megabytes of it.
WIDTH = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """Left-padded rows, so that answers line up at the right.

    `ids`, `mask`, `positions` and `labels` have the shape (rows, tokens).
    """

    ids: "torch.Tensor"
    mask: "torch.Tensor"
    positions: "torch.Tensor"
    labels: "torch.Tensor"


def pad(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token: int) -> Batch:
    """Put (ids, labels) rows into one batch as wide as its longest row, rounded up to `WIDTH`."""
    import torch

    width = -(-max(len(ids) for ids, _ in rows) // WIDTH) * WIDTH
    ids = torch.full((len(rows), width), pad_token)
    labels = torch.full((len(rows), width), IGNORED)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for row, (tokens, targets) in enumerate(rows):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        labels[row, width - len(tokens) :] = torch.tensor(targets)
        mask[row, width - len(tokens) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Batch(ids, mask, positions, labels)


def epoch_order(
    examples: Sequence[Example], size: int, seed: int, epoch: int, grouped: bool = True
) -> Iterator[list[Example]]:
    """One epoch's batches: shuffled, and if `grouped` rows of like length together in a window.

    Depends on seed and epoch alone, so that a resumed run sees the rows that it would have seen.
    """
    rng = random.Random(f"{seed}-{epoch}")
    rows = list(examples)
    rng.shuffle(rows)
    for start in range(0, len(rows), size * WINDOW):
        window = rows[start : start + size * WINDOW]
        if grouped:
            window.sort(key=lambda row: len(row.ids))
        batches = [window[i : i + size] for i in range(0, len(window), size)]
        rng.shuffle(batches)
        yield from batches


def cut(rows: Sequence[Example], size: int, most_tokens: int | None = None) -> list[list[Example]]:
    """Rows in order, in micro-batches of at most `size` rows and `most_tokens` tokens.

    A row of more tokens than that stands alone.
    """
    batches: list[list[Example]] = []
    tokens = 0
    for row in rows:
        tokens += len(row.ids)
        full = not batches or len(batches[-1]) == size
        if full or (most_tokens and tokens > most_tokens):
            batches.append([])
            tokens = len(row.ids)
        batches[-1].append(row)
    return batches


def by_length(examples: Sequence[Example], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of like length, for evaluation."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]
