"""Classes told by a classification head on an encoder or decoder (PEFT's SEQ_CLS)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adaptery.classification import Classification
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Row
from adaptery.trainers.encoding import IGNORED, Example
from adaptery.trainers.method import TaskType
from adaptery.trainers.tasks.base import Answer, Task
from adaptery.trainers.tasks.classes import label_of, texts_of
from adaptery.trainers.tasks.forward import Forward

if TYPE_CHECKING:
    import torch


class Head(Task):
    """`weights` has one number for each label; `offsets` are calibrated ones, 0 where not given."""

    task_type: TaskType = "SEQ_CLS"

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

    def encode(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        examples = [self.example(row) for row in rows]
        advance(len(rows))
        return examples

    def example(self, row: Row) -> Example:
        """One row: its texts as the encoder was pre-trained on pairs, special tokens included."""
        tokenizer, label = self.forward.tokenizer, label_of(row, self.classes.kind)
        texts = texts_of(row)
        if tokenizer.sep_token is None and len(texts) > 1:  # a decoder, which knows no pairs
            texts = (self.classes.question(texts),)
        encoded = tokenizer(*texts, add_special_tokens=True, verbose=False)
        ids = tuple(encoded["input_ids"])
        segments = tuple(encoded["token_type_ids"]) if "token_type_ids" in encoded else ()
        return Example(
            ids=ids,
            labels=(IGNORED,) * len(ids),
            prompt=ids,
            answer=label,
            origin=row.origin,
            label=self.labels.index(label),
            segments=segments,
        )

    def weight(self, row: Example) -> float:
        return 1.0

    def loss(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        import torch

        logits = self.forward.class_logits(model, rows)
        labels = torch.tensor([row.label for row in rows], device=logits.device)
        weights = torch.tensor(self.weights, device=logits.device)[labels]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (losses * weights).sum()

    def answers(self, model: Any, rows: Sequence[Example], generate: int) -> list[Answer]:
        scores = self.forward.class_logits(model, rows).log_softmax(1).cpu().tolist()
        return [
            Answer(self.classes.decide(row, self.offsets), -row[example.label or 0], 1, tuple(row))
            for row, example in zip(scores, rows, strict=True)
        ]

    def recorded(self) -> dict[str, Any]:
        return self.classes.model_dump(mode="json") | {"weights": self.settings.weights}
