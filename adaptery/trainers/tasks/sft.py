"""Supervised fine-tuning: the assistant's turns, or what follows a prompt, are learned."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adaptery.trainers.data.rows import Row
from adaptery.trainers.encoding import Encoder, Example
from adaptery.trainers.tasks.base import Answer, Task
from adaptery.trainers.tasks.forward import Forward

if TYPE_CHECKING:
    import torch


class Sft(Task):
    """The loss of a step is the mean over all tokens learned in it."""

    def __init__(self, forward: Forward) -> None:
        super().__init__(forward)
        self.encoder = Encoder(forward.tokenizer)

    def encode(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        return self.encoder.encode_all(rows, advance)

    def weight(self, row: Example) -> float:
        return row.learned

    def loss(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        losses, _ = self.forward.token_losses(model, rows)
        return losses.sum()

    def answers(self, model: Any, rows: Sequence[Example], generate: int) -> list[Answer]:
        import torch

        losses, index = self.forward.token_losses(model, rows)
        sums = torch.zeros(len(rows)).index_add_(0, index.cpu(), losses.cpu())
        texts = self.forward.greedy_answers(model, rows, generate) if generate else [""] * len(rows)
        return [
            Answer(text, loss, row.learned)
            for text, loss, row in zip(texts, sums.tolist(), rows, strict=True)
        ]

    def recorded(self) -> dict[str, Any]:
        return {"kind": "sft"}
