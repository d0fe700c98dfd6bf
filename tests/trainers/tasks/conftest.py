"""Tasks over the tiny base, made of rows in a line."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Conversation, Labelled, Message, Row
from adaptery.trainers.encoding import Example
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import make_task

Make = Callable[..., tuple[Task, list[Example]]]


def pairs(labels: Sequence[str]) -> list[Labelled]:
    """Two texts with each label, of many lengths."""
    return [
        Labelled((f"{'the sky ' * (n % 4)}{n}", f"the sun {n}"), label, f"pairs.jsonl:{n + 1}")
        for n, label in enumerate(labels)
    ]


def texts(labels: Sequence[str]) -> list[Labelled]:
    """A text with each label, of many lengths."""
    return [
        Labelled((f"{'blue ' * (n % 5)}sky {n}",), label, f"texts.jsonl:{n + 1}")
        for n, label in enumerate(labels)
    ]


def chats(labels: Sequence[str], system: str | None = "Which colour?") -> list[Conversation]:
    """The same texts as chats, with a system message unless it is None."""
    before = [Message("system", system)] if system is not None else []
    return [
        Conversation(
            (*before, Message("user", row.texts[0]), Message("assistant", row.label)), row.origin
        )
        for row in texts(labels)
    ]


@pytest.fixture
def make(base: LocalBase) -> Make:
    """A task for rows, and the rows as it sees them."""

    def make(rows: Sequence[Row], **settings: Any) -> tuple[Task, list[Example]]:
        task = make_task(TaskConfig(**settings), Forward(base.tokenizer), rows)
        return task, task.encode(rows)

    return make


def logits_alone(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """transformers' logits of one row by itself, (tokens, vocabulary)."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)])).logits[0]
