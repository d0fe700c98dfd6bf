import pytest

from adaptery.trainers.batches import cut
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.steps import count_steps, next_smaller, steps_of
from tests.trainers.test_batches import examples


@pytest.mark.parametrize("rows", [1, 7, 16, 17, 100])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("epochs", [0.5, 1, 2.3])
@pytest.mark.parametrize("processes", [1, 2])
def test_as_many_steps_are_made_as_are_counted(
    rows: int, accumulation: int, epochs: float, processes: int
) -> None:
    training = TrainingConfig(batch_size=4, accumulation=accumulation, epochs=epochs)
    total = count_steps(rows, training, processes)
    steps = list(steps_of(examples(rows), training, total, processes))
    assert len(steps) == total >= 1
    assert epochs != 1 or sum(len(step) for step in steps) == rows


def test_max_steps_ends_a_run_early_and_never_prolongs_it() -> None:
    assert count_steps(100, TrainingConfig(batch_size=10, epochs=1, max_steps=3)) == 3
    assert count_steps(100, TrainingConfig(batch_size=10, epochs=1, max_steps=30)) == 10


def test_the_rows_of_a_step_depend_on_how_many_there_are_and_not_on_how_they_are_cut() -> None:
    rows = examples(100)

    def seen(batch: int, accumulation: int, processes: int) -> list[list[int]]:
        training = TrainingConfig(batch_size=batch, accumulation=accumulation)
        steps = steps_of(rows, training, count_steps(100, training, processes), processes)
        return [[id(row) for row in step] for step in steps]

    assert seen(12, 1, 1) == seen(6, 2, 1) == seen(6, 1, 2) == seen(1, 3, 4)
    assert seen(12, 1, 1) != seen(8, 1, 1)


def test_micro_batches_are_a_step_in_order() -> None:
    rows = examples(10)
    pieces = cut(rows, 4)
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert [row for piece in pieces for row in piece] == rows


@pytest.mark.parametrize(("size", "smaller"), [(16, 8), (6, 3), (9, 3), (7, 1), (2, 1), (1, 1)])
def test_a_smaller_micro_batch_divides_the_larger(size: int, smaller: int) -> None:
    assert next_smaller(size) == smaller
