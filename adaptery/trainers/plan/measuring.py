"""A few real micro-steps: how long they take, and how much memory, beside what was planned."""

import time
from dataclasses import dataclass
from typing import Any

from adaptery.trainers.batches import cut
from adaptery.trainers.encoding import Example
from adaptery.trainers.loading import arithmetic
from adaptery.trainers.memory import forget_peak, give_back, memory_in_use, peak_memory
from adaptery.trainers.steps import steps_of
from adaptery.trainers.work import Work

STEPS = 3  # that are timed, after one that is not


@dataclass(frozen=True, slots=True)
class Measured:
    """What the micro-steps took: bytes above what the process had before the base was loaded."""

    peak: int
    seconds_per_micro_batch: float
    seconds: float
    """Of the whole training, evaluation not counted."""

    def error(self, planned: int) -> float:
        """How far off the plan was, as a share of what was measured."""
        return planned / self.peak - 1


def measure(work: Work) -> Measured:
    """Load the base, put the adapter on it, take a few steps. Nothing is kept.

    Raises:
        DoesNotFit: there is not enough memory.
    """
    import torch
    import transformers  # noqa: F401 - what libraries take is no part of a run's memory

    warm_up(work)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    baseline = memory_in_use(device)
    model = work.adapt(work.prepare())
    forget_peak()
    training = work.settings.training
    rate = training.learning_rate or work.parts.method.learning_rate
    optimizer = work.parts.method.optimizer(model, rate, training)
    model.train()
    typical = micro_batches(work)
    take(work, model, optimizer, max(typical, key=padded))
    times = []
    for rows in typical[:: max(1, len(typical) // STEPS)][:STEPS]:
        started = time.perf_counter()
        take(work, model, optimizer, rows)
        times.append((time.perf_counter() - started) / padded(rows))
    peak = peak_memory() - baseline
    each = sum(times) / len(times) * sum(map(padded, typical)) / len(typical)
    count = work.steps * training.accumulation
    return Measured(peak, each, each * count)


def warm_up(work: Work) -> None:
    """Import what a run imports, so that it is not counted as its memory."""
    import importlib

    for module in ("peft", "accelerate", "safetensors.torch", "transformers.generation"):
        importlib.import_module(module)
    importlib.import_module(f"transformers.models.{work.base.config.get('model_type', 'auto')}")
    give_back()


def micro_batches(work: Work) -> list[list[Example]]:
    """Those of the run, up to one epoch."""
    training, count = work.settings.training, work.processes.count
    steps = steps_of(work.examples, training, work.steps, count)
    found: list[list[Example]] = []
    for step in steps:
        found += cut(step, training.batch_size, training.batch_tokens)
        if sum(map(len, found)) >= len(work.examples):
            break
    return found


def padded(rows: list[Example]) -> int:
    """Tokens of a micro-batch, padding included."""
    return len(rows) * max(len(row.ids) for row in rows)


def take(work: Work, model: Any, optimizer: Any, rows: list[Example]) -> None:
    """One optimizer step on one micro-batch."""
    autocast, scaler = arithmetic(work.settings.training.precision, model.device.type)
    weight = sum(work.task.weight(row) for row in rows)
    with autocast:
        loss = work.task.loss(model, rows) / weight
    scaler.scale(loss).backward()
    penalty = work.parts.method.penalty(model)
    if penalty is not None:
        penalty.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if model.device.type == "cuda":
        import torch

        torch.cuda.synchronize()
