"""What a task says: what rows become, how wrong the model is on them, and what it answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.trainers.data.rows import Row
from adaptery.trainers.encoding import Example
from adaptery.trainers.method import TaskType
from adaptery.trainers.tasks.forward import Forward

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to one row.

    `loss` is in nats and summed over the row's learned tokens, of which there are `tokens` (for a
    class: one). `scores` are the classes' log-probabilities, where there are classes.
    """

    text: str
    loss: float
    tokens: int
    scores: tuple[float, ...] = ()


class Task(ABC):
    """One of the tasks. `forward` runs the model on rows, packed or padded."""

    task_type: TaskType = "CAUSAL_LM"
    labels: tuple[str, ...] = ()
    """The classes in order; none where answers are texts."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    @property
    def head_labels(self) -> tuple[str, ...]:
        """The classes of the classification head that the model is given; none without a head."""
        return self.labels if self.task_type == "SEQ_CLS" else ()

    @abstractmethod
    def encode(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        """Rows as the model sees them. Raises `DataError` for rows that it has no use for."""

    @abstractmethod
    def weight(self, row: Example) -> float:
        """What a row counts for in the mean that is the loss of a step."""

    @abstractmethod
    def loss(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        """The weighted sum of the rows' losses (nats), a scalar with a gradient."""

    @abstractmethod
    def answers(self, model: Any, rows: Sequence[Example], generate: int) -> list[Answer]:
        """What the model says to each row, without gradients.

        Args:
            generate: how many tokens a generated answer may have; 0 if only losses are wanted.
        """

    def reference(self, row: Example) -> str:
        """The true answer, as `Answer.text` would give it."""
        return row.answer.strip()

    @abstractmethod
    def recorded(self) -> dict[str, Any]:
        """What the manifest says of the task: a `TaskConfig` with nothing left open."""
