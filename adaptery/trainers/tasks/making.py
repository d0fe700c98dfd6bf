"""The task that a configuration means, with nothing left open."""

from collections.abc import Sequence

from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Row
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.classes import class_weights, find_classes
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.head import Head
from adaptery.trainers.tasks.sft import Sft
from adaptery.trainers.tasks.words import LabelWords


def make_task(
    settings: TaskConfig, forward: Forward, rows: Sequence[Row], offsets: Sequence[float] = ()
) -> Task:
    """The task for these rows: labels found in them, label words and class weights settled.

    Args:
        rows: those to be trained on; the classes are found in them unless they are listed.
        offsets: calibrated ones, of `adapters calibrate`.

    Raises:
        DataError: rows are of another task, of a single class, or of a class that is not listed;
            or label words cannot be told apart fairly.
        ConfigError: words or weights are given for what is no label.
    """
    if settings.kind == "sft":
        return Sft(forward)
    classes = find_classes(settings, rows)
    weights = class_weights(settings, classes, rows)
    make = Head if settings.way == "head" else LabelWords
    return make(forward, settings, classes, weights, offsets)
