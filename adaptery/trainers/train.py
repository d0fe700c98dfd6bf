"""A run from configuration to baked adapter: the one path that every method takes."""

import importlib.metadata
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.base_model import LocalBase, open_base
from adaptery.config import Resolved
from adaptery.trainers.audit import audit
from adaptery.trainers.bake import settle, trainable_parameters
from adaptery.trainers.config import RunConfig
from adaptery.trainers.data.rows import Conversation, data_digest
from adaptery.trainers.encoding import Encoder, Example
from adaptery.trainers.evaluation import Metric, answers_are_labels, evaluate, pad_id
from adaptery.trainers.loading import add_adapter, load_base, precision
from adaptery.trainers.loop import Loop, count_steps, rate_factor
from adaptery.trainers.method import Method
from adaptery.trainers.probe import record_probe
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching import Silent, Watcher
from adaptery.types import Manifest, ProbePrompt, sha256_of

if TYPE_CHECKING:
    from peft import PeftModel

Reader = Callable[[Path], list[Conversation]]
PACKAGES = ("adaptery", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes")
LABEL_METRICS = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Parts:
    """The plugins that a run needs, looked up by whoever puts the parts together."""

    method: Method
    read: Reader
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class TrainingResult:
    """What a run made. `manifest.files` is still empty: whoever publishes fills it."""

    run: Path
    adapter: Path
    manifest: Manifest
    trainable_parameters: int
    seconds: float
    peak_memory: int
    """Bytes: the process' peak on a CPU, the allocator's on a GPU."""


def train(
    config: Resolved[RunConfig],
    parts: Parts,
    *,
    resume: Path | None = None,
    watcher: Watcher | None = None,
) -> TrainingResult:
    """Run one training from data to baked adapter. Nothing is published.

    Args:
        resume: the run directory of an interrupted run of this very configuration.

    Raises:
        DataError: the data must not be trained on; no weight was loaded.
        BaseNotFound, ConfigError: the base or an option is wrong; nothing was written.
        Interrupted: by the user; the message says how to go on.
        VerificationError: the run went wrong in a way that its result would hide.
    """
    interrupted = RunDirectory.reopen(resume) if resume else None
    work = Work.gather(config.value, parts, watcher or Silent())
    started = time.perf_counter()
    model = work.prepare()
    run = interrupted or RunDirectory.create(config)
    work.watcher.say(f"Run directory: {run.path}")
    with run.resumable():
        scores = work.measure_base(model)
        work.fit(model, run, resume=interrupted is not None)
        scores |= work.measure(model, "evaluating the adapter")
        run.adapter.mkdir(exist_ok=True)
        parts.method.bake(model, run.adapter)
        settle(run.adapter, work.base.identity, work.template)
        parameters = trainable_parameters(model)
        del model  # the probe needs the memory for the plain base
        probe = record_probe(work.base, run.adapter, work.encoder)
        run.plot()
    result = TrainingResult(
        run=run.path,
        adapter=run.adapter,
        manifest=work.manifest(scores, probe),
        trainable_parameters=parameters,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
    )
    run.write_result(summary(result))
    return result


@dataclass(frozen=True)
class Work:
    """What a run works with, all of it checked before the first weight is loaded."""

    settings: RunConfig
    parts: Parts
    watcher: Watcher
    base: LocalBase
    encoder: Encoder
    examples: list[Example]
    tests: list[Example]
    data_digest: str

    @classmethod
    def gather(cls, settings: RunConfig, parts: Parts, watcher: Watcher) -> "Work":
        """Read and audit the rows, find the base."""
        rows = parts.read(settings.data.train)
        held_out = parts.read(settings.data.eval) if settings.data.eval else []
        base = open_base(settings.base, settings.revision)
        encoder = Encoder(base.tokenizer)
        examples = [encoder.encode(row) for row in rows]
        tests = [encoder.encode(row) for row in held_out]
        audit(examples, tests, settings.data.max_length, base.tokenizer.bos_token_id)
        digest = data_digest(rows)
        return cls(settings, parts, watcher, base, encoder, examples, tests, digest)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.examples), self.settings.training)

    @property
    def template(self) -> str:
        """The chat template that the rows were rendered with."""
        return str(self.base.tokenizer.chat_template)

    def prepare(self) -> "PeftModel":
        """The base with a fresh adapter, every random choice from the seed."""
        import torch

        torch.manual_seed(self.settings.training.seed)
        model = load_base(self.base, self.parts.method, self.settings)
        return add_adapter(model, self.parts.method, self.settings, self.steps)

    def fit(self, model: "PeftModel", run: RunDirectory, *, resume: bool) -> None:
        """Train, from the checkpoint if there is one to resume from."""
        import torch

        training, method, total = self.settings.training, self.parts.method, self.steps
        low = precision(training.precision) == torch.bfloat16
        optimizer = method.optimizer(
            model, training.learning_rate or method.learning_rate, training
        )
        loop = Loop(
            model=model,
            method=method,
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: rate_factor(step, total, training)
            ),
            autocast=torch.autocast(model.device.type, torch.bfloat16, enabled=low),
            training=training,
            run=run,
            watcher=self.watcher,
            pad_token=pad_id(self.base.tokenizer),
            total=total,
            inputs=f"{self.base.identity.digest} {self.data_digest}",
        )
        if resume:
            loop.load(run.load_checkpoint())
        loop.fit(self.examples)

    def measure_base(self, model: "PeftModel") -> dict[str, float]:
        """The untuned base's scores on the held-out rows, as `base.loss` and so on."""
        if not self.settings.evaluation.baseline:
            return {}
        with model.disable_adapter():
            scores = self.measure(model, "evaluating the untuned base")
        return {f"base.{name}": score for name, score in scores.items()}

    def measure(self, model: "PeftModel", title: str) -> dict[str, float]:
        """Scores on the held-out rows; none without such rows."""
        if not self.tests:
            return {}
        evaluation = self.settings.evaluation
        wanted = evaluation.metrics
        if wanted == "auto":
            wanted = LABEL_METRICS if answers_are_labels(self.tests) else ()
        metrics = {name: self.parts.metrics[name] for name in wanted}
        self.watcher.phase(title, len(self.tests))
        return evaluate(
            model, self.base.tokenizer, self.tests, metrics, evaluation.batch_size, self.watcher
        )

    def manifest(self, scores: dict[str, float], probe: tuple[ProbePrompt, ...]) -> Manifest:
        """What there is to say of the result, its files excepted."""
        return Manifest(
            files=(),
            base=self.base.identity,
            method=self.settings.method,
            config=recorded(self.settings, self.parts.method),
            data_digest=self.data_digest,
            template_digest=sha256_of(self.template.encode()),
            tokenizer_digest=self.base.tokenizer_digest,
            packages=package_versions(),
            seed=self.settings.training.seed,
            metrics=scores,
            probe=probe,
        )


def recorded(settings: RunConfig, method: Method) -> dict[str, Any]:
    """The part of a configuration that shapes the result; paths and the name are not."""
    config = settings.model_dump(
        mode="json", exclude={"name", "base", "revision", "method", "runs"}
    )
    config["options"] = method.options.model_dump(mode="json")
    for key in ("train", "eval"):
        path = getattr(settings.data, key)
        config["data"][key] = path.name if path else None
    return config


def package_versions() -> dict[str, str]:
    """What computed the result."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory() -> int:
    """Bytes: the GPU allocator's peak, or the process' where there is no GPU."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def summary(result: TrainingResult) -> dict[str, Any]:
    """A result as data."""
    return {
        "run": str(result.run),
        "adapter": str(result.adapter),
        "method": result.manifest.method,
        "metrics": result.manifest.metrics,
        "trainable_parameters": result.trainable_parameters,
        "seconds": round(result.seconds, 2),
        "peak_memory_bytes": result.peak_memory,
    }
