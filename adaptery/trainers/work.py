"""What a run works with, and the pieces of work: prepare, measure, fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.base_model import LocalBase, open_base
from adaptery.errors import ConfigError
from adaptery.trainers.audit import Part, Rules, audit, within
from adaptery.trainers.audit.end_token import untrained_end_token
from adaptery.trainers.config import RunConfig
from adaptery.trainers.control import Best
from adaptery.trainers.data.reading import read_rows
from adaptery.trainers.data.rows import Dataset, Format
from adaptery.trainers.encoding import Example
from adaptery.trainers.evaluation.scoring import (
    Evaluation,
    Metric,
    check_best,
    evaluate,
    wanted_metrics,
)
from adaptery.trainers.loading import (
    adapter_plan,
    add_adapter,
    arithmetic,
    load_base,
    speed_up,
)
from adaptery.trainers.loop import Loop
from adaptery.trainers.method import Method
from adaptery.trainers.optimizers import check_training, make_schedule
from adaptery.trainers.plan.outline import outline
from adaptery.trainers.processes import Processes
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.sharding import shard
from adaptery.trainers.steps import count_steps
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import make_task
from adaptery.trainers.watching import Watcher, make_observers
from adaptery.trainers.watching.sampling import take_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Parts:
    """The plugins that a run needs, looked up by whoever puts the parts together."""

    method: Method
    formats: Mapping[str, Format]
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Work:
    """What a run works with, all of it checked before the first weight is loaded."""

    settings: RunConfig
    parts: Parts
    watcher: Watcher
    base: LocalBase
    task: Task
    train: Dataset
    held_out: Dataset | None
    examples: list[Example]
    tests: list[Example]
    processes: Processes = field(default_factory=Processes)

    @classmethod
    def gather(
        cls, settings: RunConfig, parts: Parts, watcher: Watcher, base: LocalBase | None = None
    ) -> "Work":
        """Read and audit the rows, find the base.

        Args:
            base: an outline to plan with; the base with its weights where not given.

        Raises:
            DataError: the rows must not be trained on.
            BaseNotFound: there is no such base.
            ConfigError: optimizer, schedule or precision cannot be had here.
        """
        check_training(settings.training)
        check_revision(settings)
        data = settings.data
        train = read_rows(data.train, data, parts.formats)
        held_out = read_rows(data.eval, data, parts.formats) if data.eval else None
        base = base or open_base(settings.base, settings.revision)
        task = make_task(settings.task, Forward(base.tokenizer), train.rows)
        rows = len(train.rows) + len(held_out.rows if held_out else ())
        watcher.phase("reading rows", rows)
        examples = task.encode(train.rows, watcher.advance)
        tests = task.encode(held_out.rows, watcher.advance) if held_out else []
        pieces = [Part.of(train, examples), *([Part.of(held_out, tests)] if held_out else [])]
        kind, labels = settings.task.kind, task.labels
        rules = Rules.of(base.tokenizer, data.max_length, data.too_long, kind, labels)
        report = audit(pieces, rules)
        report.refuse()
        ends = () if task.head_labels else untrained_end_token(base)
        for warning in (*report.warnings, *ends):
            watcher.say(str(warning))
        if data.too_long == "drop":
            examples, tests = within(examples, data.max_length), within(tests, data.max_length)
        work = cls(settings, parts, watcher, base, task, train, held_out, examples, tests)
        check_best(settings.evaluation.best, list(work.metrics))
        work.check_adapter()
        return work

    def check_adapter(self) -> None:
        """Refuse targets or options that do not fit this base, by its outline."""
        model = outline(self.base, self.task.head_labels)
        plan = adapter_plan(model, self.task, self.settings, self.steps)
        if self.parts.method.makes_adapter:
            self.parts.method.peft_config(plan)

    @property
    def figures(self) -> dict[str, dict[str, int]]:
        """How many rows and tokens there are to learn from and to measure on."""
        parts = {"training": self.examples, "held-out": self.tests}
        return {
            name: {
                "rows": len(rows),
                "tokens": sum(len(row.ids) for row in rows),
                "learned tokens": sum(row.learned for row in rows),
                "longest row": max(len(row.ids) for row in rows),
            }
            for name, rows in parts.items()
            if rows
        }

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.examples), self.settings.training, self.processes.count)

    @property
    def template(self) -> str | None:
        """The chat template that rows were rendered with; a head needs none."""
        template = self.base.tokenizer.chat_template
        return str(template) if template and not self.task.head_labels else None

    @property
    def metrics(self) -> dict[str, Metric]:
        """What is measured of answers on the held-out rows."""
        if not self.tests:
            return {}
        wanted = wanted_metrics(self.settings.evaluation, self.task, self.tests)
        return {name: self.parts.metrics[name] for name in wanted}

    def prepare(self) -> "PreTrainedModel":
        """The base as the method trains on it, every random choice from here on by the seed."""
        import torch

        torch.manual_seed(self.settings.training.seed)
        precision = self.settings.training.precision
        return load_base(self.base, self.task, self.parts.method, precision)

    def adapt(self, model: "PreTrainedModel") -> Any:
        """Put a fresh adapter on the base, and let rows through it in the fastest way it allows.

        Raises:
            ConfigError: packing is asked for, and this model cannot do it.
        """
        adapted = add_adapter(model, self.task, self.parts.method, self.settings, self.steps)
        reason = speed_up(adapted, self.settings.training.packing)
        if reason and self.settings.training.packing == "on":
            raise ConfigError(
                f"training.packing is on, but this model's rows cannot be packed: {reason}. "
                "Set it to auto; they are padded then."
            )
        if reason and self.settings.training.packing == "auto" and not self.task.head_labels:
            self.watcher.say(f"Rows are padded and not packed: {reason}.")
        self.task.forward = replace(self.task.forward, packed=reason is None)
        return adapted

    def fit(self, model: Any, run: RunDirectory, *, resume: bool) -> dict[str, Any]:
        """Train, from the newest checkpoint if resumed; returns what a manifest says of it."""
        training, evaluation = self.settings.training, self.settings.evaluation
        method = self.parts.method
        if self.processes.sharded:
            shard(model, model.device.type, self.processes.count)
        rate = training.learning_rate or method.learning_rate
        optimizer = method.optimizer(model, rate, training)
        autocast, scaler = arithmetic(training.precision, model.device.type)
        run.checkpoints.keep = training.keep_checkpoints
        observers = make_observers(self.settings, run, self.watcher) if self.processes.main else ()
        asked = self.tests[: evaluation.samples]
        loop = Loop(
            model=model,
            method=method,
            task=self.task,
            optimizer=optimizer,
            schedule=make_schedule(optimizer, training, self.steps),
            autocast=autocast,
            scaler=scaler,
            processes=self.processes,
            training=training,
            checkpoints=run.checkpoints,
            watcher=self.watcher,
            observers=observers,
            total=self.steps,
            inputs=f"{self.base.identity.digest} {self.train.digest}",
            best=Best(evaluation.best, evaluation.patience),
            evaluate=lambda: self.measure(model).metrics,
            sample=lambda: take_samples(self.task, model, asked, evaluation.max_new_tokens),
            every=evaluation.every,
        )
        try:
            if resume:
                loop.resume()
            loop.fit(self.examples)
        finally:
            for observer in observers:
                observer.end()
        return loop.outcome()

    def measure_base(self, model: "PreTrainedModel") -> dict[str, float]:
        """The untuned base's scores on the held-out rows, as `base.loss` and so on.

        A fresh classification head knows nothing, so there is no base to measure with one.
        """
        if not self.settings.evaluation.baseline or self.task.head_labels or not self.tests:
            return {}
        scores = self.measure(model, "evaluating the untuned base").metrics
        return {f"base.{name}": score for name, score in scores.items()}

    def measure(self, model: Any, title: str = "evaluating") -> Evaluation:
        """What the model says to the held-out rows; nothing without such rows."""
        if not self.tests:
            return Evaluation([], [], {})
        self.watcher.phase(title, len(self.tests))
        return evaluate(
            self.task, model, self.tests, self.metrics, self.settings.evaluation, self.watcher
        )


def check_revision(settings: RunConfig) -> None:
    """Refuse a revision where there is none to choose.

    Raises:
        ConfigError: the base is a directory.
    """
    if settings.revision and Path(settings.base).expanduser().is_dir():
        raise ConfigError(
            f"The revision {settings.revision!r} means nothing to {settings.base}: a directory has "
            "one state only. Take it out, or name a base on the Hub."
        )
