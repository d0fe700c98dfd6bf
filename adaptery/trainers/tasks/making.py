"""The task that a configuration means, or that a version was trained for."""

from collections.abc import Sequence

from pydantic import ValidationError

from adaptery.classification import Classification, default_words
from adaptery.errors import DataError, UsageError
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Row
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.classes import class_weights, find_classes
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.head import Head
from adaptery.trainers.tasks.sft import Sft
from adaptery.trainers.tasks.words import LabelWords
from adaptery.types import Manifest


def make_task(settings: TaskConfig, forward: Forward, rows: Sequence[Row]) -> Task:
    """The task for these rows: labels found in them, label words and class weights settled.

    Args:
        rows: those to be trained on; the classes are found in them unless they are listed.

    Raises:
        DataError: rows are of another task, of a single class, or of a class that is not listed;
            or label words cannot be told apart fairly.
        ConfigError: words or weights are given for what is no label.
    """
    if settings.kind == "sft":
        return Sft(forward)
    classes = find_classes(settings, rows)
    weights = class_weights(settings, classes, rows)
    if settings.way == "head":
        return Head(forward, settings, classes, weights)
    refused = []
    for words in (
        [settings.words] if settings.words else default_words(settings.kind, classes.labels)
    ):
        try:
            named = find_classes(settings.model_copy(update={"words": words}), rows)
            return LabelWords(forward, settings, named, weights)
        except DataError as error:
            refused.append(error)
    raise refused[0]


def remake_task(manifest: Manifest, forward: Forward, offsets: Sequence[float] = ()) -> Task:
    """The task that a version was trained for, as far as answering goes; an imported version's
    is taken to be `sft`.

    Args:
        offsets: calibrated ones, of `adapters calibrate`.

    Raises:
        UsageError: the manifest's task cannot be understood.
    """
    recorded = manifest.config.get("task", {"kind": "sft"})
    try:
        settings = TaskConfig.model_validate(recorded)
    except ValidationError as error:
        raise UsageError(f"The manifest's task cannot be understood: {error}") from error
    if settings.kind == "sft":
        return Sft(forward)
    classes = Classification.of(manifest)
    make = Head if settings.way == "head" else LabelWords
    return make(forward, settings, classes, [1.0] * len(classes.labels), offsets)
