import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptery.trainers.compute.packing import KEPT, SHARED, SLOTS, pack
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
    (block,) = pack(of_lengths(lengths)).layout.blocks
    wanted = [
        row * block.width + place for row, length in enumerate(lengths) for place in range(length)
    ]
    slots = torch.arange(sum(lengths)) if block.slots is None else block.slots
    assert slots.tolist() == wanted
    assert max(lengths) <= block.width < max(lengths) + SLOTS


@given(Lengths, st.integers(0, 40))
def test_what_all_rows_begin_with_stands_there_once(lengths: list[int], same: int) -> None:
    """Every row can be read back, every learned token is predicted by the one before it."""
    data = [([99] * same + ids, [IGNORED] * (same + 1) + ids[1:]) for ids, _ in of_lengths(lengths)]
    packed = pack(data, share=True)
    layout = packed.layout
    plain = pack(data).layout
    assert layout.targets.equal(plain.targets)
    assert layout.row.equal(plain.row)
    assert layout.shared in {0, same // SHARED * SHARED, (same - 1) // SHARED * SHARED}
    assert (layout.shared > 0) == (same >= 2 * SHARED + (min(lengths) == 0) and len(lengths) > 1)
    ids, positions = packed.ids[0].tolist(), packed.positions[0].tolist()
    start = layout.shared
    for (tokens, _), length in zip(data, layout.lengths, strict=True):
        assert ids[: layout.shared] + ids[start : start + length] == tokens
        wanted = list(range(len(tokens)))
        assert positions[: layout.shared] + positions[start : start + length] == wanted
        start += length
    learned = [packed.ids[0, place].item() for place in layout.kept[: layout.learned]]
    assert learned == layout.targets.tolist()  # of_lengths repeats one token in a row


def test_nothing_that_is_learned_is_shared() -> None:
    """Nor is the token that predicts it, so that each row has its own."""
    ids = [5] * 40
    for first in (0, 1, 20, 39):
        labels = [IGNORED] * first + ids[first:]
        layout = pack([(ids, labels)] * 3, share=True).layout
        assert layout.shared <= max(0, first - 1)
        assert layout.learned == 3 * (40 - max(1, first))
    assert pack([(ids, labels)] * 3, share=True).layout.shared == 32
    assert pack([(ids, labels)], share=True).layout.shared == 0


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


def test_rows_of_one_length_need_no_padding() -> None:
    (block,) = pack(of_lengths([32, 32])).layout.blocks
    assert block.slots is None
    assert block.width == 32
    (block,) = pack(of_lengths([32, 31])).layout.blocks
    assert block.slots is not None
