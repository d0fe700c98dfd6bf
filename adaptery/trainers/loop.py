"""The training loop: optimizer steps over micro-batches, checkpoints, and nothing else.

The loss of a step is the mean over all tokens learned in it, across micro-batches, so that
accumulation changes memory and not the result.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.errors import ConfigError, Interrupted, VerificationError
from adaptery.trainers.batches import epoch_order
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.encoding import Example
from adaptery.trainers.method import Method
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.watching import Watcher

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def count_steps(rows: int, training: TrainingConfig) -> int:
    """Optimizer steps of a whole run."""
    per_epoch = math.ceil(math.ceil(rows / training.batch_size) / training.accumulation)
    steps = math.ceil(per_epoch * training.epochs)
    return min(steps, training.max_steps) if training.max_steps else steps


def steps_of(
    examples: Sequence[Example], training: TrainingConfig, total: int
) -> Iterator[list[list[Example]]]:
    """For every optimizer step its micro-batches."""
    done, epoch = 0, 0
    while True:
        batches = list(epoch_order(examples, training.batch_size, training.seed, epoch))
        for start in range(0, len(batches), training.accumulation):
            if done == total:
                return
            yield batches[start : start + training.accumulation]
            done += 1
        epoch += 1


def rate_factor(step: int, total: int, training: TrainingConfig) -> float:
    """The share of the peak rate at `step` (from 0)."""
    warm = round(training.warmup * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    left = 1 - (step - warm) / max(1, total - warm)
    if training.scheduler == "linear":
        return left
    return 0.5 * (1 - math.cos(math.pi * left)) if training.scheduler == "cosine" else 1.0


@dataclass
class Loop:
    """One run's moving parts."""

    model: "PeftModel"
    method: Method
    optimizer: "torch.optim.Optimizer"
    schedule: "torch.optim.lr_scheduler.LRScheduler"
    autocast: "torch.autocast"
    training: TrainingConfig
    run: RunDirectory
    watcher: Watcher
    task: Task
    total: int
    inputs: str
    """Digests of base and rows, so that a run is not resumed with others."""
    step: int = 0

    def fit(self, examples: Sequence[Example]) -> None:
        """Train from the current step to the last.

        Raises:
            Interrupted: by the user, after a checkpoint was saved.
            VerificationError: the loss or its gradient is no longer a number.
        """
        self.model.train()
        self.watcher.phase("training", self.total)
        self.watcher.advance(self.step)
        window = Window()
        with StopSignals() as stop:
            for number, micro_batches in enumerate(
                steps_of(examples, self.training, self.total), 1
            ):
                if number > self.step:
                    window.add(*self.one_step(number, micro_batches))
                    window = self.report(number, window)
                if stop.received:
                    self.save()
                    raise self.interrupted()
        self.save()

    def one_step(self, number: int, micro_batches: list[list[Example]]) -> tuple[float, int, float]:
        """One optimizer step: its loss (nats per token), learned tokens and gradient norm."""
        from torch.nn.utils import clip_grad_norm_

        learned = sum(row.learned for rows in micro_batches for row in rows)
        weight = sum(self.task.weight(row) for rows in micro_batches for row in rows)
        total = 0.0
        for rows in micro_batches:
            with self.autocast:
                loss = self.task.loss(self.model, rows) / weight
            total += loss.item()
            penalty = self.method.penalty(self.model)
            if penalty is not None:
                loss = loss + penalty / len(micro_batches)
            loss.backward()
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        norm = float(clip_grad_norm_(trainable, self.training.max_grad_norm))
        if not math.isfinite(total + norm):
            raise VerificationError(
                f"The loss became {total} and its gradient's norm {norm} at step {number}, so the "
                "run was stopped and nothing published. Lower training.learning_rate or "
                "training.max_grad_norm."
            )
        self.optimizer.step()
        self.schedule.step()
        self.method.after_step(self.model, number)
        self.optimizer.zero_grad(set_to_none=True)
        self.step = number
        return total, learned, norm

    def report(self, number: int, window: "Window") -> "Window":
        """Show and log figures; returns the window that the next step is averaged in."""
        rate = self.schedule.get_last_lr()[0]
        self.watcher.advance(1, loss=window.loss, learning_rate=rate)
        if number % self.training.log_every == 0 or number == self.total:
            self.run.append_metrics({"step": number, "learning_rate": rate, **window.figures()})
            window = Window()
        if number % self.training.checkpoint_every == 0 and number < self.total:
            self.save()
        return window

    def save(self) -> None:
        """Write a checkpoint from which `load` goes on as if nothing had happened."""
        import torch

        adapter = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        self.run.save_checkpoint(
            {
                "inputs": self.inputs,
                "step": self.step,
                "adapter": adapter,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "method": self.method.state(self.model),
                "random": torch.get_rng_state(),
                "random_on_gpu": torch.cuda.get_rng_state_all(),
            }
        )

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ConfigError: it is of a run on another base or other rows.
        """
        import torch

        if state["inputs"] != self.inputs:
            raise ConfigError(
                f"{self.run.path} was trained on another base or other rows than those here now. "
                "Bring those back, or start the run anew."
            )
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in state["adapter"].items():
                parameters[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.method.restore(self.model, state["method"])
        torch.set_rng_state(state["random"])
        torch.cuda.set_rng_state_all(state["random_on_gpu"])
        self.step = state["step"]

    def interrupted(self) -> Interrupted:
        return Interrupted(
            f"Interrupted at step {self.step} of {self.total}; nothing was published. "
            f"Go on with: adapters train --resume {self.run.path}"
        )


class StopSignals:
    """Lets the step in hand end before Ctrl-C or SIGTERM stops the run; a second stops at once."""

    def __init__(self) -> None:
        self.received = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True


class Window:
    """Averages since the last row of metrics."""

    def __init__(self) -> None:
        self.losses, self.tokens, self.norm = 0.0, 0, 0.0
        self.since = time.perf_counter()

    def add(self, loss: float, tokens: int, norm: float) -> None:
        self.losses += loss * tokens
        self.tokens += tokens
        self.norm = norm

    @property
    def loss(self) -> float:
        return self.losses / max(1, self.tokens)

    def figures(self) -> dict[str, float]:
        return {
            "loss": self.loss,
            "grad_norm": self.norm,
            "learned_tokens_per_second": self.tokens / (time.perf_counter() - self.since),
        }
