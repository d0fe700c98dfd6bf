"""The training loop: optimizer steps over micro-batches, checkpoints, and nothing else.

The loss of a step is the weighted mean over all of its rows, across micro-batches and processes,
so that accumulation and processes change memory and time and not the result.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptery.errors import DoesNotFit, Interrupted
from adaptery.trainers.batches import cut
from adaptery.trainers.chance import (
    dropout_state,
    set_dropout_state,
    undisturbed,
)
from adaptery.trainers.checkpoints import Checkpoints
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.control import Best, StopSignals
from adaptery.trainers.encoding import Example
from adaptery.trainers.figures import Window
from adaptery.trainers.loop_state import check_state, put_weights, restore, state_of
from adaptery.trainers.memory import give_back, is_out_of_memory, memory_in_use, remedies
from adaptery.trainers.method import Method
from adaptery.trainers.processes import Processes
from adaptery.trainers.steps import next_smaller, rows_in_step, steps_in_epoch, steps_of
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.watching import Observer, Watcher
from adaptery.trainers.watching.sampling import Sample

if TYPE_CHECKING:
    import torch


@dataclass
class Loop:
    """One run's moving parts."""

    model: Any
    method: Method
    task: Task
    optimizer: "torch.optim.Optimizer"
    schedule: "torch.optim.lr_scheduler.LRScheduler"
    autocast: "torch.autocast"
    scaler: "torch.amp.GradScaler"
    processes: Processes
    training: TrainingConfig
    checkpoints: Checkpoints
    watcher: Watcher
    observers: Sequence[Observer]
    total: int
    inputs: str
    """Digests of base and rows, so that a run is not resumed with others."""
    best: Best = field(default_factory=Best)
    evaluate: Callable[[], Mapping[str, float]] = dict
    """Measures the model on held-out rows; called every `every` steps."""
    sample: Callable[[], Iterable[Sample]] = tuple
    """Asks the model, to be seen by people; called with `evaluate`."""
    every: int | None = None
    step: int = 0
    seconds: float = 0.0
    """Of training so far, those before a resume included."""
    micro_batch: int = 0
    """Rows that go through the model at once; fewer when memory ran out."""

    def __post_init__(self) -> None:
        self.micro_batch = self.micro_batch or self.training.batch_size
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.trained.values())).device
        self.window = Window()
        self.saved: int | None = None

    def fit(self, examples: Sequence[Example]) -> None:
        """Train from the current step to the last, or until patience is over; then take the best.

        Raises:
            Interrupted: by the user, after a checkpoint was saved.
            VerificationError: the loss or its gradient is no longer a number.
            DoesNotFit: not even one row at a time fits into memory.
        """
        processes, training = self.processes, self.training
        self.begin(steps_in_epoch(len(examples), training, processes.count))
        steps = steps_of(examples, training, self.total, processes.count)
        with StopSignals(patient=processes.count > 1) as stop:
            for number, rows in enumerate(steps, 1):
                if self.best.patience_is_over:
                    break
                if number <= self.step:
                    continue
                self.one_step(number, rows)
                self.report()
                if processes.any(stop.received):
                    self.save()
                    raise self.interrupted()
        self.save()
        self.take_best()

    def begin(self, steps_in_epoch: int) -> None:
        """Show where the run stands; a fresh one leaves a checkpoint to begin again from."""
        self.steps_in_epoch = steps_in_epoch
        self.started = time.perf_counter() - self.seconds
        self.model.train()
        self.show()
        if self.step == 0:
            self.processes.go_apart(self.training.seed)
            self.save()

    def show(self) -> None:
        """The bar of training, where it stands."""
        self.watcher.phase("training", self.total)
        self.watcher.advance(self.step)

    def one_step(self, number: int, rows: Sequence[Example]) -> None:
        """One optimizer step on the gradient of these rows' weighted mean loss (nats)."""
        import torch

        weight = sum(self.task.weight(row) for row in rows)
        loss = self.gradients(rows, weight)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.training.max_grad_norm)
        self.window.add(number, rows, weight, torch.stack([loss, norm]))
        self.figures: dict[str, float] = {}
        if self.device.type == "cpu" or self.due(number):  # a GPU need not wait for us
            self.figures = self.window.read(scaled=self.scaler.is_enabled())
        self.figures["learning_rate"] = self.schedule.get_last_lr()[0]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and not torch.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=False)  # fp16 overflowed; no weight was changed
        self.schedule.step()
        self.method.after_step(self.model, number)
        self.optimizer.zero_grad(set_to_none=True)
        self.step = number

    def gradients(self, rows: Sequence[Example], weight: float) -> "torch.Tensor":
        """Fill the gradients of all processes' rows; returns the loss.

        Where memory runs out, all begin the step again with smaller micro-batches.
        """
        import torch

        before = dropout_state()
        while True:
            loss, trouble = self.attempt(rows, weight)
            if not self.processes.any(bool(trouble)):
                break
            self.halve(trouble)
            set_dropout_state(before)
        if self.processes.count > 1:
            for parameter in self.trained.values():
                if parameter.grad is None:  # this process had no row
                    parameter.grad = torch.zeros_like(parameter)
            self.processes.add_up(
                [loss, *(p.grad for p in self.trained.values() if p.grad is not None)]
            )
        return loss

    def attempt(self, rows: Sequence[Example], weight: float) -> "tuple[torch.Tensor, str]":
        """The loss of this process' rows, and in what words memory ran out, if it did."""
        import torch

        try:
            return self.backward(rows, weight), ""
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.processes.sharded:  # the others wait for this one's part of a layer
                raise DoesNotFit(
                    f"Memory ran out at step {self.step + 1}, and with FSDP a step cannot be begun "
                    f"again: lower training.batch_size. {remedies(self.training)}"
                ) from error
            return torch.zeros((), device=self.device), str(error) or type(error).__name__

    def backward(self, rows: Sequence[Example], weight: float) -> "torch.Tensor":
        """Add the gradients of this process' rows; returns their part of the loss."""
        import torch

        total = torch.zeros((), device=self.device)
        micro_batches = cut(rows, self.micro_batch, self.training.batch_tokens)
        for micro_batch in self.processes.share(micro_batches):
            with self.autocast:
                loss = self.task.loss(self.model, micro_batch) / weight
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.keep_up(rows, micro_batches)
        penalty = self.method.penalty(self.model) if self.processes.main else None
        if penalty is not None:
            self.scaler.scale(penalty).backward()
        return total

    def keep_up(self, rows: Sequence[Example], micro_batches: Sequence[object]) -> None:
        """Where layers are spread over processes, those with fewer micro-batches compute too."""
        count = self.processes.count
        if self.processes.sharded and self.processes.index >= (len(micro_batches) % count or count):
            with self.autocast:
                loss = self.task.loss(self.model, rows[:1]) * 0
            self.scaler.scale(loss).backward()

    def halve(self, trouble: str) -> None:
        """Let fewer rows through the model at once.

        Raises:
            DoesNotFit: there is only one, or the run was told to stop.
        """
        self.optimizer.zero_grad(set_to_none=True)
        give_back()
        before, self.micro_batch = self.micro_batch, next_smaller(self.micro_batch)
        trouble = trouble.splitlines()[0] if trouble else "another process had no more"
        if before == 1 or self.training.out_of_memory == "stop":
            way_out = "" if before == 1 else "Set training.out_of_memory=halve. "
            raise DoesNotFit(
                f"Memory ran out at step {self.step + 1} with {before} "
                f"{'rows' if before > 1 else 'row'} at once ({trouble}). {way_out}"
                + remedies(self.training)
            )
        self.tell(
            "out_of_memory",
            f"Memory ran out at step {self.step + 1} with {before} rows at once, so from here on "
            f"micro-batches have {self.micro_batch} and a step {self.accumulation} of them: the "
            f"same rows, the same result up to rounding ({trouble}).",
        )

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step and process, as they are now."""
        return rows_in_step(self.training) // self.micro_batch

    def due(self, step: int) -> bool:
        """Whether something is written or measured after this step."""
        intervals = (self.training.log_every, self.training.checkpoint_every, self.every)
        return step == self.total or any(n and step % n == 0 for n in intervals)

    def report(self) -> None:
        """After a step: show and log its figures, measure, save."""
        step, before = self.step, time.perf_counter()
        self.seconds = before - self.started
        figures = self.figures | {
            "seconds": self.seconds,
            "memory_bytes": memory_in_use(self.device),
        }
        self.watcher.advance(1, **figures)
        if step % self.training.log_every == 0 or step == self.total:
            row = {"step": step, "epoch": step / self.steps_in_epoch, **figures}
            for observer in self.observers:
                observer.row(row)
            self.window = Window()
        best = self.every and (step % self.every == 0 or step == self.total) and self.measure()
        if best or step % self.training.checkpoint_every == 0:
            self.save()
        self.window.since += time.perf_counter() - before  # is no time of training

    def measure(self) -> bool:
        """Measure on the held-out rows; returns whether the run was never better."""
        with undisturbed():
            scores = self.processes.from_main(dict(self.evaluate()))
            samples = list(self.sample()) if self.observers else []
        for observer in self.observers:
            for sample in samples:
                observer.sample(self.step, *sample)
            observer.row({"step": self.step, **{f"eval.{n}": s for n, s in scores.items()}})
        self.show()
        if not self.method.settled(self.model, self.step):
            return False
        best = self.best.hear(self.step, scores)
        if best:
            self.tell("best", f"{self.best} is the best so far.", quietly=True)
        if self.best.patience_is_over:
            self.tell(
                "early_stop",
                f"Stopped at step {self.step} of {self.total}: {self.best.waited} measurements in "
                f"a row were not better than {self.best}.",
            )
        return best

    def take_best(self) -> None:
        """Put the weights of the best measurement into the model, if they are not there."""
        if self.best.step in (None, self.step):
            return
        put_weights(self, self.checkpoint(self.best.step))
        self.watcher.say(f"The adapter is the best one measured: {self.best}.")

    def tell(self, kind: str, sentence: str, *, quietly: bool = False) -> None:
        """Something that the run's record keeps, and, unless quietly, its watcher shows."""
        if not quietly:
            self.watcher.say(sentence)
        for observer in self.observers:
            observer.event(kind, self.step, sentence)

    def save(self) -> None:
        """Write a checkpoint from which `resume` goes on as if nothing had happened."""
        if self.saved == self.step:
            return
        self.saved = self.step
        state = state_of(self)
        if self.processes.main:
            self.checkpoints.save(self.step, self.best.step, state)

    def checkpoint(self, step: int | None = None) -> dict[str, Any]:
        """The checkpoint of a step, or the newest, as the main process has it."""
        read = self.checkpoints.newest if step is None else lambda: self.checkpoints.load(step)
        return self.processes.from_main(read() if self.processes.main else {})

    def resume(self) -> None:
        """Go on from the newest checkpoint.

        Raises:
            ConfigError: it is of another base, other rows, or more or fewer processes.
        """
        state = self.checkpoint()
        check_state(self, state)
        restore(self, state)
        self.saved = self.step
        self.tell("resume", f"Going on from step {self.step} of {self.total}.")

    def outcome(self) -> dict[str, Any]:
        """What a manifest says of how it went, where that is not what was configured."""
        outcome: dict[str, Any] = {}
        if self.processes.count > 1:
            outcome["processes"] = self.processes.count
        if self.micro_batch != self.training.batch_size:
            outcome |= {"batch_size": self.micro_batch, "accumulation": self.accumulation}
        if self.step < self.total:
            outcome["steps"] = self.step
        if self.best.step is not None:
            outcome["best"] = self.best.told()
        return outcome

    def interrupted(self) -> Interrupted:
        return Interrupted(
            f"Interrupted at step {self.step} of {self.total}; nothing was published. "
            f"Go on with: adapters train --resume {self.checkpoints.folder}"
        )
