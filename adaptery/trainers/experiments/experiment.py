"""An experiment: variations and seeds, run one after another, resumable."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptery.config import Resolved
from adaptery.errors import Interrupted
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.answers import FILE, Said, read_answers
from adaptery.trainers.experiments.outcome import Outcome
from adaptery.trainers.experiments.running import alone, run_in
from adaptery.trainers.experiments.variations import Variation, digest_of
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.watcher import Watcher


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
    runs: list[Run] = []
    with alone(output):
        for number, (variation, seed, config) in enumerate(planned, 1):
            digest = digest_of(config.value, experiment.base_digest)
            folder = output / "runs" / f"{slug(variation.name)}-s{seed}-{digest[:8]}"
            before = Outcome.read(folder)
            again = " is there already" if before and before.over else ""
            watcher.say(f"{variation.name}, seed {seed} ({number} of {len(planned)}){again}")
            try:
                outcome = run_in(folder, config, command, watcher)
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


def slug(name: str) -> str:
    """A name as a folder can have it.

    >>> slug("q_proj,v_proj")
    'q_proj-v_proj'
    """
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")[:40] or "run"
