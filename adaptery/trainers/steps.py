"""Which rows an optimizer step learns from, and how they are cut into micro-batches.

A step's rows depend on seed, epoch and the number of rows in a step alone. How they are cut and
which process takes which piece is a matter of memory and time, never of the result.
"""

import math
from collections.abc import Iterator, Sequence

from adaptery.trainers.batches import epoch_order
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.encoding import Example


def rows_in_step(training: TrainingConfig, processes: int = 1) -> int:
    """The effective batch size."""
    return training.batch_size * training.accumulation * processes


def steps_in_epoch(rows: int, training: TrainingConfig, processes: int = 1) -> int:
    """Optimizer steps of one pass over the rows; the last may have fewer rows than others."""
    return math.ceil(rows / rows_in_step(training, processes))


def count_steps(rows: int, training: TrainingConfig, processes: int = 1) -> int:
    """Optimizer steps of a whole run."""
    steps = math.ceil(steps_in_epoch(rows, training, processes) * training.epochs)
    return min(steps, training.max_steps) if training.max_steps else steps


def steps_of(
    examples: Sequence[Example], training: TrainingConfig, total: int, processes: int = 1
) -> Iterator[list[Example]]:
    """The rows of every optimizer step."""
    done, epoch = 0, 0
    while True:
        size = rows_in_step(training, processes)
        for rows in epoch_order(
            examples, size, training.seed, epoch, grouped=training.group_by_length
        ):
            if done == total:
                return
            yield rows
            done += 1
        epoch += 1


def next_smaller(size: int) -> int:
    """The largest number of rows below `size` that divides it: half, where there is a half."""
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), 1)
