"""Answers in mid-run: what the model says to the first held-out rows, and whether it stops."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adaptery.trainers.encoding import Example
from adaptery.trainers.evaluation.scoring import evaluating
from adaptery.trainers.tasks.base import Task

if TYPE_CHECKING:
    import torch


class Sample(NamedTuple):
    """A prompt and what the model answered; `ended` unless it was cut off."""

    prompt: str
    answer: str
    ended: bool


def take_samples(task: Task, model: Any, rows: Sequence[Example], longest: int) -> list[Sample]:
    """Greedy answers of at most `longest` tokens; where the task tells classes, the class."""
    import torch

    if not rows:
        return []
    with evaluating(model), torch.no_grad():
        if task.labels:
            said = [(answer.text, True) for answer in task.answers(model, rows, 0)]
        else:
            new = task.forward.generated(model, rows, longest)
            said = list(zip(task.forward.texts(new), stopped(task, model, new), strict=True))
    prompts = (task.forward.tokenizer.decode(row.prompt or row.ids) for row in rows)
    return [Sample(prompt, *pair) for prompt, pair in zip(prompts, said, strict=True)]


def stopped(task: Task, model: Any, new: "torch.Tensor") -> list[bool]:
    """Whether each answer, (rows, tokens), came to its end token; behind that there is padding."""
    ends = model.generation_config.eos_token_id
    known = {*(ends if isinstance(ends, list) else [ends]), task.forward.pad_token}
    return [last in known for last in new[:, -1].tolist()]
