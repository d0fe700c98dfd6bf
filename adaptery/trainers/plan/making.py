"""The plan of a run: what its rows, its adapter and its memory will be."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adaptery.config import Resolved, fields_of
from adaptery.trainers.batches import by_length, cut, pad
from adaptery.trainers.config import RunConfig, TrainingConfig
from adaptery.trainers.encoding import IGNORED, Example
from adaptery.trainers.loading import precision
from adaptery.trainers.memory import remedies
from adaptery.trainers.method import AdapterPlan
from adaptery.trainers.plan.memory import (
    FP32,
    MemoryPlan,
    Room,
    allocator_bytes,
    cache_bytes,
    optimizer_state,
    room,
)
from adaptery.trainers.plan.outline import build
from adaptery.trainers.plan.rehearsal import (
    Arithmetic,
    EndToEnd,
    Loss,
    Padded,
    peak_of_evaluation,
    peak_of_training,
    speed_up,
)
from adaptery.trainers.plan.sizes import safetensors_size
from adaptery.trainers.steps import next_smaller, rows_in_step, steps_in_epoch, steps_of
from adaptery.trainers.targets import head_modules, linear_layers, resolve_targets
from adaptery.trainers.work import Work


@dataclass(frozen=True)
class RunPlan:
    """All that `adapters plan` tells. `values` are key, value and origin of every option."""

    data: dict[str, Any]
    steps: dict[str, Any]
    adapter: dict[str, Any]
    memory: MemoryPlan
    room: Room
    remedy: str
    """What to change where it does not fit; empty where it does."""
    values: list[tuple[str, Any, str]]

    @property
    def fits(self) -> bool:
        """Whether there is room for the peak."""
        return self.memory.peak <= self.room.available

    def told(self) -> dict[str, Any]:
        """The plan as data."""
        return {
            "data": self.data,
            "steps": self.steps,
            "adapter": self.adapter,
            "memory": self.memory.told(),
            "available": {"device": self.room.device, "bytes": self.room.available},
            "fits": self.fits,
            "remedy": self.remedy,
            "values": [
                {"key": key, "value": value, "origin": origin} for key, value, origin in self.values
            ],
        }


def make_plan(config: Resolved[RunConfig], work: Work) -> RunPlan:
    """The plan of a run whose rows were read and audited; loads no weights.

    Raises:
        ConfigError: transformers has no model of the base's configuration, or lacks the targets.
    """
    sketch = Sketch(work)
    memory, available = sketch.memory(work.settings.training), room()
    fits = memory.peak <= available.available
    return RunPlan(
        data=told_data(work),
        steps=told_steps(work),
        adapter=sketch.told(),
        memory=memory,
        room=available,
        remedy="" if fits else sketch.remedy(available),
        values=values(config),
    )


def told_data(work: Work) -> dict[str, Any]:
    """Of the rows."""
    lengths = [len(row.ids) for row in work.examples]
    return {
        "format": work.train.format,
        "task": work.task.recorded(),
        "rows": len(work.examples),
        "held_out_rows": len(work.tests),
        "tokens": sum(lengths),
        "learned_tokens": sum(row.learned for row in work.examples),
        "longest": max(lengths),
    }


def told_steps(work: Work) -> dict[str, Any]:
    """Of the optimizer's steps."""
    training, count = work.settings.training, work.processes.count
    return {
        "steps": work.steps,
        "steps_in_epoch": steps_in_epoch(len(work.examples), training, count),
        "effective_batch": rows_in_step(training, count),
        "warmup_steps": round(training.warmup * work.steps),
        "learning_rate": training.learning_rate or work.parts.method.learning_rate,
        "precision": str(precision(training.precision)).removeprefix("torch."),
    }


def values(config: Resolved[RunConfig]) -> list[tuple[str, Any, str]]:
    """Every option with its value and where that came from."""
    dumped = config.value.model_dump(mode="json")
    found = []
    for key in fields_of(RunConfig):
        value: Any = dumped
        for part in key.split("."):
            value = value[part]
        origins = [
            origin
            for other, origin in config.origins.items()
            if f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}.")
        ]
        found.append((key, value, ", ".join(dict.fromkeys(origins)) or "default"))
    return found


class Sketch:
    """The model of a run as an outline, and what is told by it."""

    def __init__(self, work: Work) -> None:
        self.work, self.method = work, work.parts.method
        self.precision = precision(work.settings.training.precision)
        self.model = self.outline()
        settings, task = work.settings, work.task
        self.targets = resolve_targets(self.model, settings.lora.targets)
        self.layers = len(linear_layers(self.model))
        self.base_parameters = sum(p.numel() for p in self.model.parameters())
        self.base_bytes = self.method.base_bytes(self.model)
        heads = head_modules(self.model) if task.head_labels else ()
        seed = settings.training.seed
        plan = AdapterPlan(settings.lora, self.targets, work.steps, seed, task.task_type, heads)
        self.adapted = self.method.adapt(self.model, plan)
        trained = [p for p in self.adapted.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trained)
        self.shapes = self.method.shapes(self.adapted)
        together = settings.training.packing != "off" and not task.head_labels
        self.packed = speed_up(self.adapted, self.model, pack=together)

    def outline(self) -> Any:
        """The base with the number format that it has in the run, all of it frozen."""
        import torch

        dtype = self.method.base_dtype(self.precision)
        with torch.device("meta"):
            model = build(self.work.base, self.work.task.head_labels, dtype=dtype)
        model.config.pad_token_id = self.work.task.forward.pad_token
        return self.method.outlined(model.requires_grad_(False))

    def told(self) -> dict[str, Any]:
        """Of the adapter."""
        settings = self.work.settings
        return {
            "method": settings.method,
            "options": self.method.options.model_dump(mode="json"),
            "targets": self.targets,
            "trainable": self.trainable,
            "base_parameters": self.base_parameters,
            "share": self.trainable / self.base_parameters,
            "disk": safetensors_size(self.shapes),
        }

    def memory(self, training: TrainingConfig) -> MemoryPlan:
        """The memory of a run with these settings of training."""
        import torch

        whole = not self.method.makes_adapter
        gradients = FP32 * self.trainable
        used = self.arithmetic
        self.recompute(training.gradient_checkpointing)
        self.adapted.train()
        rows = largest(self.training_batches(training))
        pieces = training.accumulation
        step = peak_of_training(self.adapted, self.loss(rows), used, pieces)
        without = peak_of_training(self.adapted, self.loss(rows, lean=True), used, pieces)
        probe = 0
        if not (whole or self.work.task.head_labels):
            probe = self.base_parameters * (2 if torch.cuda.is_available() else FP32)
        return MemoryPlan(
            base=self.base_bytes,
            adapter=0 if whole else FP32 * self.trainable,
            gradients=gradients,
            optimizer=optimizer_state(training.optimizer, self.trainable),
            activations=max(0, min(step, without) - gradients),
            logits=max(0, step - without),
            allocator=allocator_bytes(max(0, step - gradients)),
            evaluation=self.evaluation(),
            probe=probe,
        )

    def evaluation(self) -> int:
        """The most beside the weights while held-out rows are measured."""
        work = self.work
        if not work.tests:
            return 0
        settings = work.settings.evaluation
        batches = [
            [work.tests[index] for index in indices]
            for indices in by_length(work.tests, settings.batch_size)
        ]
        rows = largest(batches)
        losses = peak_of_evaluation(self.adapted, self.loss(rows), self.arithmetic)
        losses += allocator_bytes(losses)
        if not work.metrics or work.task.labels:
            return losses
        longest = max(len(row.prompt) for row in work.tests) + settings.max_new_tokens
        cache = cache_bytes(self.model.config, len(rows), longest, self.precision.itemsize)
        prompt = peak_of_evaluation(self.adapted, self.loss(rows, lean=True), self.arithmetic)
        return max(losses, prompt + cache + allocator_bytes(prompt + cache))

    def loss(self, rows: Sequence[Example], *, lean: bool = False) -> Loss:
        """How the loss of these rows is computed; `lean`: with one position of each learned."""
        if self.packed:
            from adaptery.trainers.compute.losses import may_share
            from adaptery.trainers.compute.packing import pack

            pairs = [(row.ids, lean_labels(row) if lean else row.labels) for row in rows]
            filling = self.work.task.forward.pad_token
            packed = pack(pairs, fill=filling, share=may_share(self.adapted))
            _ = packed.layout.blocks  # made of numbers, which the rehearsal has not
            return EndToEnd(packed)
        batch = pad([(row.ids, row.labels) for row in rows], self.work.task.forward.pad_token)
        kept = 1 if lean else max(row.learned for row in rows)
        return Padded(batch, 0 if self.work.task.head_labels else kept)

    @property
    def arithmetic(self) -> Arithmetic:
        import torch

        return Arithmetic(None if self.precision == torch.float32 else self.precision)

    def recompute(self, wanted: bool) -> None:
        """Gradient checkpointing on or off, as in the run."""
        if wanted:
            self.adapted.enable_input_require_grads()
            self.adapted.gradient_checkpointing_enable({"use_reentrant": False})
        elif getattr(self.model, "is_gradient_checkpointing", False):
            self.adapted.gradient_checkpointing_disable()

    def training_batches(self, training: TrainingConfig) -> list[list[Example]]:
        """The micro-batches of one epoch."""
        work, count = self.work, self.work.processes.count
        steps = steps_in_epoch(len(work.examples), training, count)
        rows = steps_of(work.examples, training, min(steps, work.steps), count)
        size, tokens = training.batch_size, training.batch_tokens
        return [batch for step in rows for batch in cut(step, size, tokens)]

    def remedy(self, available: Room) -> str:
        """The mildest change with which it fits: recomputing, then smaller micro-batches."""
        training = self.work.settings.training
        for other in milder(training):
            if self.memory(other).peak <= available.available:
                before = training.model_dump(mode="json")
                changed = {k: v for k, v in other.model_dump(mode="json").items() if v != before[k]}
                told = [f"training.{key}={json.dumps(value)}" for key, value in changed.items()]
                return f"It fits with {' and '.join(told)}, at the same result."
        return remedies(training)


def milder(training: TrainingConfig) -> Iterator[TrainingConfig]:
    """Settings with the same result that take less memory, one after another."""
    for recompute in sorted({training.gradient_checkpointing, True}):
        size = training.batch_size
        if recompute != training.gradient_checkpointing:
            yield training.model_copy(update={"gradient_checkpointing": True})
        while size > 1:
            size = next_smaller(size)
            pieces = training.accumulation * training.batch_size // size
            yield training.model_copy(
                update={
                    "batch_size": size,
                    "accumulation": pieces,
                    "gradient_checkpointing": recompute,
                }
            )


def largest(batches: Sequence[list[Example]]) -> list[Example]:
    """The micro-batch with the most tokens, padding included."""
    return max(batches, key=lambda rows: len(rows) * max(len(row.ids) for row in rows))


def lean_labels(row: Example) -> list[int]:
    """The labels of a row of which only the last token is learned."""
    return [IGNORED] * (len(row.ids) - 1) + [row.ids[-1]]
