"""Measuring a model on held-out rows: loss, and metrics of its answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.errors import ConfigError
from adaptery.trainers.batches import by_length
from adaptery.trainers.config import EvaluationConfig
from adaptery.trainers.encoding import Example
from adaptery.trainers.tasks.base import Answer, Task
from adaptery.trainers.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

Metric = Callable[[Sequence[str], Sequence[str]], float]
"""A metric takes predictions and references and returns one number."""

LOSSES = ("loss", "perplexity")  # measured without any plugin
LABEL_METRICS = ("accuracy", "macro_f1")
MOST_LABELS = 64  # with more distinct answers than this, rows are texts rather than labels
MOST_EXPONENT = 700.0  # a perplexity beyond exp of this is no number any more


@dataclass(frozen=True)
class Evaluation:
    """What a model said to rows, in their order, and what that is worth.

    `references` are the true answers; `metrics` has `loss` (nats per learned token, or per row
    where classes are told), `perplexity`, and each metric that was asked for.
    """

    answers: list[Answer]
    references: list[str]
    metrics: dict[str, float]


def answers_are_labels(task: Task, examples: Sequence[Example]) -> bool:
    """Whether answers are classes: by the task, or as far as the true ones show it."""
    return bool(task.labels) or are_labels([task.reference(example) for example in examples])


def are_labels(references: Sequence[str]) -> bool:
    """Whether true answers look like classes: few distinct ones, each for several rows."""
    distinct = len(set(references))
    return distinct <= MOST_LABELS and 2 * distinct <= len(references)


def wanted_metrics(
    settings: EvaluationConfig, task: Task, examples: Sequence[Example]
) -> tuple[str, ...]:
    """The metrics to measure, `auto` resolved; losses are measured anyway and left out."""
    if settings.metrics == "auto":
        return LABEL_METRICS if answers_are_labels(task, examples) else ()
    return tuple(name for name in settings.metrics if name not in LOSSES)


def evaluate(
    task: Task,
    model: Any,
    examples: Sequence[Example],
    metrics: Mapping[str, Metric],
    settings: EvaluationConfig,
    watcher: Watcher,
) -> Evaluation:
    """Measure `model` on `examples`; it is left as it was, in training or not.

    Greedy answers are generated only where the task tells no classes and a metric wants answers.
    """
    import torch

    # One bound for all rows, so that no answer depends on which rows share its batch.
    longest = min(settings.max_new_tokens, max(len(row.ids) - len(row.prompt) for row in examples))
    generate = longest if metrics and not task.labels else 0
    answers: list[Answer | None] = [None] * len(examples)
    with evaluating(model), torch.no_grad():
        for indices in by_length(examples, settings.batch_size):
            said = task.answers(model, [examples[index] for index in indices], generate)
            for index, answer in zip(indices, said, strict=True):
                answers[index] = answer
            watcher.advance(len(indices))
    references = [task.reference(example) for example in examples]
    return measured([answer for answer in answers if answer], references, metrics)


def measured(
    answers: list[Answer], references: list[str], metrics: Mapping[str, Metric]
) -> Evaluation:
    """Answers with what they are worth."""
    loss = sum(answer.loss for answer in answers) / max(1, sum(answer.tokens for answer in answers))
    texts = [answer.text for answer in answers]
    scores = {name: float(metric(texts, references)) for name, metric in metrics.items()}
    perplexity = math.exp(min(loss, MOST_EXPONENT))
    return Evaluation(answers, references, {"loss": loss, "perplexity": perplexity, **scores})


@contextmanager
def evaluating(model: Any) -> "Iterator[None]":
    """Dropout off for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def check_best(best: str, metrics: Sequence[str]) -> None:
    """Refuse a best checkpoint by something that is not measured.

    Raises:
        ConfigError: `best` is neither a loss nor among `metrics`.
    """
    if best not in (*LOSSES, *metrics):
        raise ConfigError(
            f"evaluation.best is {best!r}, which is not measured here. Measured are: "
            f"{', '.join((*LOSSES, *metrics))}; add it to evaluation.metrics."
        )
