"""One run of many, in the process that is its own: trained, measured, and written down."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from adaptery.base_model import open_base
from adaptery.classification import Classification
from adaptery.config import Resolved
from adaptery.errors import (
    AdapteryError,
    ConfigError,
    DataError,
    DoesNotFit,
    Interrupted,
    UsageError,
    VerificationError,
)
from adaptery.trainers.config import RunConfig
from adaptery.trainers.data.reading import read_rows
from adaptery.trainers.data.rows import summarize
from adaptery.trainers.evaluation.candidates import Candidate, encode, measure_all
from adaptery.trainers.experiments.answers import CALIBRATION as ANSWERS
from adaptery.trainers.experiments.answers import FILE, answers_of, write_answers
from adaptery.trainers.experiments.clock import TRAINING, Clock
from adaptery.trainers.experiments.outcome import Measured, Outcome, Status
from adaptery.trainers.experiments.running import CALIBRATION, RUNS
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.train import TrainingResult, train
from adaptery.trainers.watching.watcher import Silent
from adaptery.trainers.work import Parts

ROSE = 1.2  # times the first loss; the noise of a loss that goes nowhere is less


def carry_out(folder: Path, config: Resolved[RunConfig], parts: Parts) -> Outcome:
    """Train in `folder`, or go on there, and write the outcome.

    Raises:
        Interrupted: by the user or a signal; the next call goes on.
        AdapteryError: as it came, after the outcome was written.
    """
    clock = Clock(folder)
    try:
        result = train(config, parts, resume=resumable(folder / RUNS), watcher=clock)
        clock.write()
        if (folder / CALIBRATION).is_file():
            answer_more((folder / CALIBRATION).read_text(encoding="utf-8"), result, config, parts)
        outcome = finished(folder, config.value, result, clock)
    except (Interrupted, KeyboardInterrupt):
        clock.write()
        raise
    except AdapteryError as error:
        Outcome(status=status_of(error, clock), sentence=str(error)).write(folder)
        raise
    except Exception as error:
        last = "".join(traceback.format_exception_only(error)).strip()
        Outcome(status="failed", sentence=f"It broke: {last}").write(folder)
        raise
    outcome.write(folder)
    return outcome


def status_of(error: AdapteryError, clock: Clock) -> Status:
    """What an error says of the run: that it cannot fit, that it diverged, or that it failed."""
    if isinstance(error, DoesNotFit):
        return "does not fit"
    in_training = isinstance(error, VerificationError) and clock.title == TRAINING
    return "diverged" if in_training else "failed"


def resumable(runs: Path) -> Path | None:
    """The newest run directory with a checkpoint to go on from."""
    for path in sorted(runs.glob("*"), reverse=True):
        try:
            return RunDirectory.reopen(path).path
        except ConfigError:
            continue
    return None


def finished(folder: Path, config: RunConfig, result: TrainingResult, clock: Clock) -> Outcome:
    """A result as it is compared with others; its answers are written too."""
    said = answers_of(result.evaluation, [row.origin for row in result.held_out])
    write_answers(result.run / FILE, said)
    rows = [row for row in RunDirectory(result.run).metrics() if "loss" in row]
    base = open_base(config.base, config.revision)
    measured = Measured(
        metrics=result.manifest.metrics,
        labels=labels_of(result),
        training_seconds=float(rows[-1].get("seconds", clock.training)),
        seconds=sum(clock.seconds.values()),
        peak=clock.peak,
        loaded=clock.loaded or clock.peak,
        trainable_parameters=result.trainable_parameters,
        base_parameters=sum(product(tensor.shape) for tensor in base.tensors.values()),
        size=sum(path.stat().st_size for path in result.adapter.rglob("*") if path.is_file()),
    )
    run = str(result.run.relative_to(folder))
    first, last = ends_of([row["loss"] for row in rows])
    if last > ROSE * first:
        sentence = f"The training loss rose from {first:.3g} to {last:.3g}: the rate is too high."
        return Outcome(status="diverged", sentence=sentence, run=run, measured=measured)
    return Outcome(status="finished", run=run, measured=measured)


def labels_of(result: TrainingResult) -> tuple[str, ...]:
    """The classes of the task; none where answers are texts."""
    try:
        return Classification.of(result.manifest).labels
    except UsageError:
        return ()


def ends_of(losses: Sequence[float]) -> tuple[float, float]:
    """The first loss that was written down, and the mean of the last quarter of them.

    One row alone says nothing of where the loss goes.
    """
    if len(losses) < 2:
        return 0.0, 0.0
    last = losses[-max(1, len(losses) // 4) :]
    return losses[0], sum(last) / len(last)


def answer_more(
    source: str, result: TrainingResult, config: Resolved[RunConfig], parts: Parts
) -> None:
    """Answer the rows of `source` too, for thresholds to be chosen by.

    Raises:
        DataError: they are not for this task, or some of them are held-out rows.
    """
    settings = config.value
    base = open_base(settings.base, settings.revision)
    candidate = Candidate.of(settings.name, result.manifest, result.adapter, base)
    rows = read_rows(source, settings.data, parts.formats).rows
    asked = encode(candidate, rows)
    held_out = {row.ids: row.origin for row in result.held_out}
    both = [f"{row.origin} is {held_out[row.ids]}" for row in asked if row.ids in held_out]
    if both:
        what = "row(s) for calibration are held-out rows, which would then be no test of it:"
        raise DataError(summarize(f"{len(both)} {what}", both))
    evaluation = measure_all(
        [candidate], rows, parts.metrics, settings.evaluation, settings.training.precision, Silent()
    )[candidate.name]
    said = answers_of(evaluation, [row.origin for row in asked])
    write_answers(result.run / ANSWERS, said)


def product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
