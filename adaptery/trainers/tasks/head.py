"""Classes told by a classification head on an encoder or decoder (PEFT's SEQ_CLS)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adaptery.errors import DataError
from adaptery.trainers.batches import WIDTH
from adaptery.trainers.data.rows import Row, summarize
from adaptery.trainers.encoding import IGNORED, Example
from adaptery.trainers.method import TaskType
from adaptery.trainers.tasks.base import Answer
from adaptery.trainers.tasks.classes import class_numbers, texts_of
from adaptery.trainers.tasks.classifier import Classifier

if TYPE_CHECKING:
    import torch

CHUNK = 512  # rows that are tokenized in one call


class Head(Classifier):
    """A row costs the cross-entropy of its class, times the class' weight."""

    task_type: TaskType = "SEQ_CLS"

    def encode(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        numbers = class_numbers(self.classes, rows)
        examples = []
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            examples += self.encode_chunk(rows[chunk], numbers[chunk])
            advance(len(rows[chunk]))
        empty = [row.origin for row in examples if not row.ids]
        if empty:
            raise DataError(summarize(f"{len(empty)} row(s) have no token at all:", empty))
        return examples

    def encode_chunk(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[Example]:
        """Texts as the encoder was pre-trained on pairs, special tokens included."""
        tokenizer = self.forward.tokenizer
        texts = [texts_of(row) for row in rows]
        if tokenizer.sep_token is None:  # a decoder, which knows no pairs
            texts = [(self.classes.question(one),) for one in texts]
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = tokenizer(*columns, add_special_tokens=True, verbose=False)
        segments = encoded.get("token_type_ids") or [()] * len(rows)
        return [
            Example(
                ids=tuple(ids),
                labels=(IGNORED,) * len(ids),
                prompt=tuple(ids),
                answer=self.labels[number],
                origin=row.origin,
                label=number,
                segments=tuple(kinds),
            )
            for row, number, ids, kinds in zip(
                rows, numbers, encoded["input_ids"], segments, strict=True
            )
        ]

    def loss(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        import torch

        logits = self.class_logits(model, rows)
        labels = torch.tensor([row.label for row in rows], device=logits.device)
        weights = torch.tensor(self.weights, device=logits.device)[labels]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (losses * weights).sum()

    def class_logits(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        """The head's logits, shape (rows, classes).

        Rows are padded at the right and their positions left to the model: not all count from 0
        (RoBERTa begins behind its padding token's), and not all take them.
        """
        import torch

        device = next(model.parameters()).device
        width = -(-max(len(row.ids) for row in rows) // WIDTH) * WIDTH
        width = min(width, self.forward.tokenizer.model_max_length)  # no more positions than that

        def padded(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
            whole = [[*one, *[filler] * (width - len(one))] for one in values]
            return torch.tensor(whole, device=device)

        inputs = {
            "input_ids": padded([row.ids for row in rows], self.forward.pad_token),
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
        }
        if rows[0].segments:
            inputs["token_type_ids"] = padded([row.segments for row in rows], 0)
        logits: torch.Tensor = model(**inputs).logits
        return logits.float()

    def answers(self, model: Any, rows: Sequence[Example], generate: int) -> list[Answer]:
        scores = self.class_logits(model, rows).log_softmax(1).cpu().tolist()
        return [
            Answer(self.classes.decide(row, self.offsets), -row[example.label or 0], 1, tuple(row))
            for row, example in zip(scores, rows, strict=True)
        ]
