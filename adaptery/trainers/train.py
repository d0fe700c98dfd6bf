"""A run from configuration to baked adapter: the one path that every method and task takes."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptery.config import Resolved
from adaptery.trainers.bake import settle, trainable_parameters
from adaptery.trainers.config import RunConfig
from adaptery.trainers.encoding import Example
from adaptery.trainers.evaluation.scoring import Evaluation
from adaptery.trainers.memory import peak_memory
from adaptery.trainers.probe import record_probe
from adaptery.trainers.processes import Processes
from adaptery.trainers.record import make_manifest
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching import Silent, Watcher
from adaptery.trainers.work import Parts, Work
from adaptery.types import Manifest


@dataclass(frozen=True)
class TrainingResult:
    """What a run made. `manifest.files` is still empty: whoever publishes fills it."""

    run: Path
    adapter: Path
    """Its directory; that of a whole model where the method trains one."""
    manifest: Manifest
    evaluation: Evaluation
    """What the adapter said to the held-out rows."""
    held_out: list[Example]
    """Those rows."""
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
    processes = Processes()
    watcher = watcher if watcher and processes.main else Silent()
    interrupted = RunDirectory.reopen(resume) if resume and processes.main else None
    work = Work.gather(config.value, parts, watcher)
    started = time.perf_counter()
    base = work.prepare()
    run = begin(work, lambda: interrupted or RunDirectory.create(config), processes)
    with run.resumable() if processes.main else nullcontext():
        scores = work.measure_base(base)
        model = work.adapt(base)
        outcome = work.fit(model, run, resume=resume is not None)
        evaluation = work.measure(model, "evaluating the adapter")
        if not processes.end():
            sys.exit()  # what is left to do is done by the main process
        made = write(work, model, run)
        parameters = trainable_parameters(model)
        del model, base  # the probe needs the memory for the plain base
        plain = work.task.head_labels or not parts.method.makes_adapter
        probe = () if plain else record_probe(work.base, made)
        run.plot()
    result = TrainingResult(
        run=run.path,
        adapter=made,
        manifest=make_manifest(work, scores | evaluation.metrics, probe, outcome),
        evaluation=evaluation,
        held_out=work.tests,
        trainable_parameters=parameters,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
    )
    run.write_result(summary(result))
    return result


def begin(work: Work, make: Callable[[], RunDirectory], processes: Processes) -> RunDirectory:
    """The run directory that the main process makes, known to all, with what there is to learn."""
    run = RunDirectory(Path(processes.from_main(str(make().path) if processes.main else "")))
    work.watcher.say(f"Run directory: {run.path}")
    if processes.main:
        run.write_data(work.figures)
    return run


def write(work: Work, model: Any, run: RunDirectory) -> Path:
    """Write what was trained: an adapter, or a whole model with its tokenizer."""
    adapter = work.parts.method.makes_adapter
    directory = run.adapter if adapter else run.path / "model"
    directory.mkdir(exist_ok=True)
    work.parts.method.bake(model, directory)
    if adapter:
        settle(directory, work.base.identity, work.template)
    else:
        work.base.tokenizer.save_pretrained(directory)
    return directory


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
