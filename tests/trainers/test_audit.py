import pytest

from adaptery.errors import DataError
from adaptery.trainers.audit import audit
from adaptery.trainers.encoding import IGNORED, Example

BOS = 1


def example(*ids: int, line: int = 1, learned: bool = True) -> Example:
    labels = (IGNORED,) * (len(ids) - 1) + (ids[-1] if learned else IGNORED,)
    return Example(ids, labels, ids[:-1], "answer", f"rows.jsonl:{line}")


def complaint(
    train: list[Example], held_out: list[Example] | None = None, max_length: int = 10
) -> str:
    with pytest.raises(DataError) as error:
        audit(train, held_out or [], max_length, BOS)
    return str(error.value)


def test_sound_rows_pass() -> None:
    train = [example(BOS, 2, 3), example(BOS, 2, 4, line=2), example(*range(1, 11))]
    audit(train, [example(BOS, 9, 9)], 10, BOS)


def test_a_long_row_is_named_with_its_length_and_the_option() -> None:
    message = complaint([example(2, 3), example(*range(2, 13), line=2)])
    assert "rows.jsonl:2: 11 tokens" in message
    assert "rows.jsonl:1" not in message
    assert "data.max_length=10" in message


def test_a_long_held_out_row_is_refused_too() -> None:
    assert "held.jsonl" in complaint(
        [example(2, 3)], [Example((2,) * 11, (2,) * 11, (2,), "a", "held.jsonl:1")]
    )


def test_a_row_that_teaches_nothing_is_refused() -> None:
    message = complaint([example(2, 3), example(2, 4, line=5, learned=False)])
    assert "no token to learn" in message
    assert "rows.jsonl:5" in message


def test_two_bos_tokens_are_refused_and_one_is_not() -> None:
    assert "two BOS" in complaint([example(BOS, BOS, 2)])
    audit([example(2, BOS, BOS)], [], 10, BOS)
    audit([example(BOS, BOS, 2)], [], 10, None)


def test_a_held_out_row_that_is_trained_on_is_named_with_its_twin() -> None:
    message = complaint([example(2, 3), example(2, 4, line=2)], [example(2, 4, line=9)])
    assert "rows.jsonl:9 is rows.jsonl:2" in message


def test_rows_that_stand_twice_in_training_are_allowed() -> None:
    audit([example(2, 3), example(2, 3, line=2)], [example(2, 4)], 10, BOS)
