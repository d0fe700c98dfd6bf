import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptery.trainers.compute.packing import KEPT, SLOTS, pack
from adaptery.trainers.encoding import IGNORED
from tests.trainers.compute.models import rows

Lengths = st.lists(st.integers(1, 70), min_size=1, max_size=12)


def of_lengths(lengths: list[int]) -> list[tuple[list[int], list[int]]]:
    """Rows whose every token says which row it is in; all are labelled."""
    return [([n + 1] * length, [n + 1] * length) for n, length in enumerate(lengths)]


@given(Lengths, st.sampled_from([1, 8, 64]))
def test_rows_stand_end_to_end_and_positions_begin_anew(lengths: list[int], multiple: int) -> None:
    packed = pack(of_lengths(lengths), multiple)
    flat = [n + 1 for n, length in enumerate(lengths) for _ in range(length)]
    assert packed.ids.shape == packed.positions.shape == packed.labels.shape
    assert packed.ids.shape == (1, -(-len(flat) // multiple) * multiple)
    assert packed.ids[0, : len(flat)].tolist() == flat
    assert (packed.ids[0, len(flat) :] == 0).all()
    places = [place for length in lengths for place in range(length)]
    assert packed.positions[0, : len(flat)].tolist() == places


@given(Lengths)
def test_no_token_is_predicted_from_another_row_or_from_filling(lengths: list[int]) -> None:
    """The first token of a row has nothing before it, whatever its label says."""
    layout = pack(of_lengths(lengths)).layout
    ids = pack(of_lengths(lengths)).ids[0]
    assert layout.learned == sum(lengths) - len(lengths)
    assert (ids[layout.kept[: layout.learned]] == layout.targets).all()
    assert (layout.row + 1 == layout.targets).all()
    assert len(layout.kept) % KEPT == 0


@given(Lengths)
def test_every_token_has_a_slot_of_its_own_in_its_row(lengths: list[int]) -> None:
    layout = pack(of_lengths(lengths)).layout
    wanted = [
        row * layout.width + place for row, length in enumerate(lengths) for place in range(length)
    ]
    assert layout.slots.tolist() == wanted
    assert layout.longest <= layout.width < layout.longest + SLOTS


def test_only_labelled_tokens_are_learned() -> None:
    data = rows(4)
    layout = pack(data).layout
    wanted = [(n, t) for n, (_, labels) in enumerate(data) for t in labels[1:] if t != IGNORED]
    assert list(zip(layout.row.tolist(), layout.targets.tolist(), strict=True)) == wanted


def test_a_batch_moves_to_a_device_as_a_whole() -> None:
    moved = pack(rows(3)).to("meta")
    layout = moved.layout
    tensors = [moved.ids, moved.positions, moved.labels, layout.kept, layout.targets, layout.row]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert layout.lengths == pack(rows(3)).layout.lengths


def test_rows_of_one_length_without_filling_need_no_padding() -> None:
    layout = pack(of_lengths([32, 32])).layout
    assert layout.regular
    assert layout.width == 32
    assert not pack(of_lengths([32, 31])).layout.regular
    assert layout.slots.equal(torch.arange(64))
