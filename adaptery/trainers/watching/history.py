"""A run's figures as columns, grown row by row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from adaptery.trainers.config import RunConfig

Floats = NDArray[np.float64]


class Column:
    """One figure over the steps at which it was measured."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Take in a value; those of this step and later ones are a resumed run's past."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        self.steps.append(step)
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def array(self) -> Floats:
        """The values."""
        return np.asarray(self.values, dtype=np.float64)


class History:
    """Everything that was said of a run, and the configuration it was begun with."""

    def __init__(self, settings: "RunConfig") -> None:
        self.settings = settings
        self.columns: dict[str, Column] = {}
        self.no_numbers: list[tuple[str, int, float]] = []
        """NaN and infinite values as (figure, step, value); they are in no column."""
        self.samples: list[Mapping[str, Any]] = []
        self.events: list[Mapping[str, Any]] = []

    @classmethod
    def of(
        cls,
        settings: "RunConfig",
        rows: Iterable[Mapping[str, Any]],
        samples: Sequence[Mapping[str, Any]] = (),
        events: Sequence[Mapping[str, Any]] = (),
    ) -> "History":
        """One of rows as `RunDirectory.metrics` gives them."""
        history = cls(settings)
        for row in rows:
            history.add(row)
        history.samples, history.events = list(samples), list(events)
        return history

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row of metrics."""
        step = int(row["step"])
        for name, value in row.items():
            if name == "step" or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                self.columns.setdefault(name, Column()).add(step, float(value))
            else:
                self.no_numbers.append((name, step, value))

    def __getitem__(self, name: str) -> Column:
        """A figure's column; an empty one where it was never measured."""
        return self.columns.get(name, EMPTY)

    @property
    def rows_per_line(self) -> int:
        """Training rows that one line of metrics is the average of, on one process."""
        training = self.settings.training
        return training.batch_size * training.accumulation * training.log_every

    @property
    def progress(self) -> float:
        """The share of the run that is done, from 0 to 1."""
        training, steps, epochs = self.settings.training, self["loss"].steps, self["epoch"].values
        shares = [steps[-1] / training.max_steps] if steps and training.max_steps else []
        shares += [epochs[-1] / training.epochs] if epochs else []
        return min(1.0, max(shares, default=0.0))

    @property
    def peak_rate(self) -> float:
        """The learning rate configured, or else the highest so far; 0 where none is known."""
        configured = self.settings.training.learning_rate
        return configured or max(self["learning_rate"].values, default=0.0)


EMPTY = Column()
