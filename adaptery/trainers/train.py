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
from adaptery.trainers.data import Conversation, data_digest
from adaptery.trainers.encoding import Encoder, Example
from adaptery.trainers.evaluation import Metric, answers_are_labels, evaluate, pad_id
from adaptery.trainers.loading import add_adapter, load_base, precision
from adaptery.trainers.loop import Loop, count_steps, rate_factor
from adaptery.trainers.method import Method
from adaptery.trainers.probe import record_probe
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching import Silent, Watcher
from adaptery.types import Manifest, sha256_of

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
        BaseNotFound, ConfigError: the base or an option is wrong.
        Interrupted: by the user; the message says how to go on.
        VerificationError: the run went wrong in a way that its result would hide.
    """
    settings, watcher = config.value, watcher or Silent()
    rows, held_out = read_rows(settings, parts.read)
    base = open_base(settings.base, settings.revision)
    encoder = Encoder(base.tokenizer)
    examples = [encoder.encode(row) for row in rows]
    tests = [encoder.encode(row) for row in held_out]
    audit(examples, tests, settings.data.max_length, base.tokenizer.bos_token_id)

    run = RunDirectory.reopen(resume) if resume else RunDirectory.create(config)
    watcher.say(f"Run directory: {run.path}")
    started = time.perf_counter()
    model = prepare(settings, parts.method, base, count_steps(len(examples), settings.training))
    scores = measure_base(model, base, tests, settings, parts, watcher)
    fit(
        model,
        settings,
        parts.method,
        run,
        examples,
        pad_id(base.tokenizer),
        watcher,
        resume is not None,
    )
    scores |= measure(model, base, tests, settings, parts, watcher, "evaluating the adapter")
    probe = record_probe(model, encoder)
    run.adapter.mkdir(exist_ok=True)
    parts.method.bake(model, run.adapter)
    template = str(base.tokenizer.chat_template)
    settle(run.adapter, base.identity, template)
    run.plot()
    manifest = Manifest(
        files=(),
        base=base.identity,
        method=settings.method,
        config=recorded(settings),
        data_digest=data_digest(rows),
        template_digest=sha256_of(template.encode()),
        tokenizer_digest=base.tokenizer_digest,
        packages=package_versions(),
        seed=settings.training.seed,
        metrics=scores,
        probe=probe,
    )
    result = TrainingResult(
        run=run.path,
        adapter=run.adapter,
        manifest=manifest,
        trainable_parameters=trainable_parameters(model),
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
    )
    run.write_result(summary(result))
    return result


def read_rows(settings: RunConfig, read: Reader) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out rows."""
    return read(settings.data.train), read(settings.data.eval) if settings.data.eval else []


def prepare(settings: RunConfig, method: Method, base: LocalBase, steps: int) -> "PeftModel":
    """The base with a fresh adapter, every random choice from the seed."""
    import torch

    torch.manual_seed(settings.training.seed)
    return add_adapter(load_base(base, method, settings), method, settings, steps)


def fit(
    model: "PeftModel",
    settings: RunConfig,
    method: Method,
    run: RunDirectory,
    examples: list[Example],
    pad_token: int,
    watcher: Watcher,
    resume: bool,
) -> None:
    """Train, from the checkpoint if there is one to resume from."""
    import torch
    from accelerate import Accelerator

    training = settings.training
    total = count_steps(len(examples), training)
    low = precision(training.precision) == torch.bfloat16
    accelerator = Accelerator(
        mixed_precision="bf16" if low else "no", cpu=not torch.cuda.is_available()
    )
    optimizer = method.optimizer(model, training.learning_rate or method.learning_rate, training)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, total, training)
    )
    loop = Loop(
        model, method, optimizer, schedule, accelerator, training, run, watcher, pad_token, total
    )
    if resume:
        loop.load(run.load_checkpoint())
    loop.fit(examples)


def measure_base(
    model: "PeftModel",
    base: LocalBase,
    tests: list[Example],
    settings: RunConfig,
    parts: Parts,
    watcher: Watcher,
) -> dict[str, float]:
    """The untuned base's scores on the same rows, as `base.loss` and so on."""
    if not settings.evaluation.baseline:
        return {}
    with model.disable_adapter():
        scores = measure(
            model, base, tests, settings, parts, watcher, "evaluating the untuned base"
        )
    return {f"base.{name}": score for name, score in scores.items()}


def measure(
    model: "PeftModel",
    base: LocalBase,
    tests: list[Example],
    settings: RunConfig,
    parts: Parts,
    watcher: Watcher,
    title: str,
) -> dict[str, float]:
    """Scores on the held-out rows; none without such rows."""
    if not tests:
        return {}
    wanted = settings.evaluation.metrics
    if wanted == "auto":
        wanted = LABEL_METRICS if answers_are_labels(tests) else ()
    metrics = {name: parts.metrics[name] for name in wanted}
    watcher.phase(title, len(tests))
    return evaluate(model, base.tokenizer, tests, metrics, settings.evaluation.batch_size, watcher)


def recorded(settings: RunConfig) -> dict[str, Any]:
    """The part of a configuration that shapes the result; paths and the name are not."""
    config = settings.model_dump(
        mode="json", exclude={"name", "base", "revision", "method", "runs"}
    )
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
