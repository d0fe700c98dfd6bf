from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptery.trainers.batches import WIDTH, by_length, cut, epoch_order, pad
from adaptery.trainers.encoding import IGNORED, Example


def examples(count: int) -> list[Example]:
    """Rows of different lengths; the first token is the row's number."""
    return [
        Example((n, *range(n * 7 % 13)), (n,) * (1 + n * 7 % 13), (n,), "", str(n))
        for n in range(count)
    ]


@given(
    rows=st.integers(1, 200),
    size=st.integers(1, 40),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_row_once_in_full_batches(
    rows: int, size: int, seed: int, epoch: int
) -> None:
    data = examples(rows)
    batches = list(epoch_order(data, size, seed, epoch))
    assert Counter(row.origin for batch in batches for row in batch) == Counter(
        map(str, range(rows))
    )
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


def order(seed: int, epoch: int) -> list[list[str]]:
    return [[row.origin for row in batch] for batch in epoch_order(examples(100), 8, seed, epoch)]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_rows_of_like_length_stand_together() -> None:
    """That is what makes the padding small."""

    def waste(batches: list[list[Example]]) -> int:
        return sum(
            max(len(row.ids) for row in batch) - len(row.ids) for batch in batches for row in batch
        )

    data = examples(256)
    unsorted = [data[i : i + 8] for i in range(0, 256, 8)]
    assert waste(list(epoch_order(data, 8, 0, 0))) < waste(unsorted) / 4


def test_rows_that_are_not_grouped_stand_as_they_were_shuffled() -> None:
    data = examples(256)
    plain = [row for batch in epoch_order(data, 8, 0, 0, grouped=False) for row in batch]
    grouped = [row for batch in epoch_order(data, 8, 0, 0) for row in batch]
    assert plain != grouped
    assert sorted(plain, key=lambda row: int(row.origin)) == data
    lengths = [len(row.ids) for row in plain]
    assert lengths != sorted(lengths)


@given(rows=st.integers(0, 60), size=st.integers(1, 20), most=st.none() | st.integers(1, 60))
def test_micro_batches_keep_order_and_bounds(rows: int, size: int, most: int | None) -> None:
    data = examples(rows)
    batches = list(cut(data, size, most))
    assert [row for batch in batches for row in batch] == data
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or not most or sum(len(row.ids) for row in batch) <= most


@given(size=st.integers(1, 20), most=st.none() | st.integers(1, 60))
def test_micro_batches_are_no_more_than_needed(size: int, most: int | None) -> None:
    """No row would have fitted into the micro-batch before its own."""
    batches = list(cut(examples(60), size, most))
    for before, after in pairwise(batches):
        tokens = sum(len(row.ids) for row in (*before, after[0]))
        assert len(before) == size or (most and tokens > most)


@given(rows=st.integers(0, 60), size=st.integers(1, 20))
def test_evaluation_sees_every_row_once(rows: int, size: int) -> None:
    batches = list(by_length(examples(rows), size))
    assert sorted(index for batch in batches for index in batch) == list(range(rows))
    assert all(len(batch) <= size for batch in batches)


def test_rows_are_padded_at_the_left_and_positions_begin_at_their_first_token() -> None:
    batch = pad([((5, 6, 7), (IGNORED, 6, 7)), ((8,), (8,))], pad_token=9)
    empty = WIDTH - 3
    assert batch.ids.tolist() == [[9] * empty + [5, 6, 7], [9] * empty + [9, 9, 8]]
    assert batch.labels[:, empty:].tolist() == [[IGNORED, 6, 7], [IGNORED, IGNORED, 8]]
    assert (batch.labels[:, :empty] == IGNORED).all()
    assert batch.mask.tolist() == [[0] * empty + [1, 1, 1], [0] * empty + [0, 0, 1]]
    assert batch.positions[:, empty:].tolist() == [[0, 1, 2], [0, 0, 0]]


@given(st.integers(1, 200))
def test_widths_are_few(longest: int) -> None:
    """Each one costs memory for as long as the process runs."""
    row = tuple(range(longest))
    width = pad([(row, row)], pad_token=0).ids.shape[1]
    assert width % WIDTH == 0
    assert longest <= width < longest + WIDTH


@pytest.mark.parametrize("field", ["ids", "labels", "mask", "positions"])
def test_all_parts_of_a_batch_have_its_shape(field: str) -> None:
    batch = pad([((1, 2), (1, 2)), ((3, 4, 5), (3, 4, 5))], pad_token=0)
    tensor = getattr(batch, field)
    assert tensor.shape == (2, WIDTH)
    assert tensor.dtype == torch.long
