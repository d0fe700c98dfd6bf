"""An experiment: variations and seeds, run one after another, resumable."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptery.config import Resolved
from adaptery.errors import Interrupted
from adaptery.trainers.config import RunConfig
from adaptery.trainers.evaluation.scoring import Evaluation, Metric
from adaptery.trainers.experiments.answers import (
    CALIBRATION,
    FILE,
    Said,
    evaluation_of,
    read_answers,
)
from adaptery.trainers.experiments.outcome import Outcome
from adaptery.trainers.experiments.running import alone, run_in
from adaptery.trainers.experiments.variations import Variation, changed, digest_of, file_digest
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.watcher import Watcher
from adaptery.types import sha256_of


@dataclass(frozen=True)
class Experiment:
    """What is varied. `heading` names the table's first column, `notes` say what was decided."""

    kind: str
    heading: str
    base: Resolved[RunConfig]
    base_digest: str
    variations: Sequence[Variation]
    seeds: Sequence[int]
    notes: Sequence[str] = ()
    calibration: Path | None = None
    """Rows that every run also answers, so that thresholds can be chosen by them."""

    def digest(self, config: RunConfig) -> str:
        """SHA-256 of what shapes a run and what is asked of it."""
        own = digest_of(config, self.base_digest)
        return (
            sha256_of(f"{own} {file_digest(self.calibration)}".encode())
            if self.calibration
            else own
        )


@dataclass(frozen=True)
class Run:
    """One variation with one seed, and what became of it."""

    variation: Variation
    seed: int
    folder: Path
    outcome: Outcome

    @property
    def directory(self) -> Path | None:
        """The run directory, where the run came to its end."""
        return self.folder / self.outcome.run if self.outcome.run else None

    @cached_property
    def answers(self) -> list[Said]:
        """What it said to each held-out row."""
        return read_answers(self.directory / FILE) if self.directory else []

    @cached_property
    def calibration(self) -> list[Said]:
        """What it said to the rows for calibration, if there are any."""
        return read_answers(self.directory / CALIBRATION) if self.directory else []

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of an answer's scores."""
        return self.outcome.measured.labels if self.outcome.measured else ()

    def evaluation(self, metrics: Mapping[str, Metric]) -> Evaluation:
        """Its answers to the held-out rows, and what they are worth by `metrics`."""
        return evaluation_of(self.answers, metrics)

    @cached_property
    def curve(self) -> tuple[list[int], list[float]]:
        """Steps and training losses."""
        rows = RunDirectory(self.directory).metrics() if self.directory else []
        rows = [row for row in rows if "loss" in row]
        return [row["step"] for row in rows], [row["loss"] for row in rows]


def carry_on(
    experiment: Experiment, output: Path, command: Sequence[str], watcher: Watcher
) -> list[Run]:
    """Run what is not over yet; all runs, in the table's order.

    Raises:
        DataError: the rows must not be trained on.
        ConfigError: a variation is no configuration, or another process is at work in `output`.
        Interrupted: by the user; the same call goes on.
    """
    planned = [
        (variation, seed, variation.settings(experiment.base, seed))
        for variation in experiment.variations
        for seed in experiment.seeds
    ]
    planned[1:] = [(row, seed, without_baseline(config)) for row, seed, config in planned[1:]]
    runs: list[Run] = []
    with alone(output):
        for number, (variation, seed, config) in enumerate(planned, 1):
            digest = experiment.digest(config.value)
            folder = output / "runs" / f"{slug(variation.name)}-s{seed}-{digest[:8]}"
            before = Outcome.read(folder)
            again = " is there already" if before and before.over else ""
            watcher.say(f"{variation.name}, seed {seed} ({number} of {len(planned)}){again}")
            try:
                outcome = run_in(
                    folder, config, command, watcher, calibration=experiment.calibration
                )
            except KeyboardInterrupt:
                outcome = None
            if outcome is None:
                raise Interrupted(
                    f"Interrupted; {len(runs)} of {len(planned)} runs are over, and the one in "
                    "hand was kept. The same command goes on from there."
                )
            if outcome.sentence:
                watcher.say(f"  {outcome.status}: {outcome.sentence}")
            runs.append(Run(variation, seed, folder, outcome))
    return runs


def without_baseline(config: Resolved[RunConfig]) -> Resolved[RunConfig]:
    """The configuration without a measurement of the untuned base, which one run makes for all."""
    return changed(config, {"evaluation.baseline": False}, "experiment")


def slug(name: str) -> str:
    """A name as a folder can have it.

    >>> slug("q_proj,v_proj")
    'q_proj-v_proj'
    """
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")[:40] or "run"
