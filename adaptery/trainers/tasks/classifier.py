"""What label words and heads share: classes, what each counts for, and by which a row is right."""

from collections.abc import Sequence
from typing import Any

from adaptery.classification import Classification
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.encoding import Example
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.forward import Forward


class Classifier(Task):
    """`weights` has one number for each label; `offsets` are calibrated ones, 0 where not given."""

    def __init__(
        self,
        forward: Forward,
        settings: TaskConfig,
        classes: Classification,
        weights: Sequence[float],
        offsets: Sequence[float] = (),
    ) -> None:
        super().__init__(forward)
        self.settings, self.classes, self.labels = settings, classes, classes.labels
        self.weights, self.offsets = weights, offsets

    def weight(self, row: Example) -> float:
        return 1.0

    def reference(self, row: Example) -> str:
        assert row.label is not None
        return self.labels[row.label]

    def recorded(self) -> dict[str, Any]:
        return self.classes.model_dump(mode="json") | {"weights": self.settings.weights}
