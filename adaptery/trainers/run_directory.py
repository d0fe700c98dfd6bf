"""The folder that a run leaves: configuration, status, metrics, checkpoints, plots, adapter."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from adaptery.config import Resolved, read_file, resolve
from adaptery.errors import ConfigError, Interrupted
from adaptery.trainers.checkpoints import Checkpoints
from adaptery.trainers.config import RunConfig
from adaptery.trainers.watching import journal
from adaptery.trainers.watching.status import Status, alive, read_status, write_status


class RunDirectory:
    """`runs/<name>-<time>/` and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapter = path / "adapter"
        self.checkpoints = Checkpoints(path)

    @classmethod
    def create(cls, config: Resolved[RunConfig]) -> "RunDirectory":
        """Make a new one for a resolved configuration.

        Raises:
            ConfigError: the folder cannot be written.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        for attempt in range(1, 1000):
            suffix = f"-{attempt}" if attempt > 1 else ""
            path = config.value.runs / f"{config.value.name}-{stamp}{suffix}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(f"The run directory {path} cannot be made: {error}") from error
            run = cls(path)
            run.write_config(config)
            return run
        raise ConfigError(f"{config.value.runs} already holds a thousand runs of this second.")

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """An interrupted one.

        Raises:
            ConfigError: it is no run directory, still runs, or has no checkpoint to go on from.
        """
        run = cls(path)
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"{path} is no run directory: it has no config.yaml.")
        if run.status.state == "running":
            raise ConfigError(f"{path} is still running, as process {run.status.pid}.")
        if not run.can_resume:
            raise ConfigError(f"{path} has no checkpoint to go on from; start the run anew.")
        return run

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Keep the run's status while the body runs.

        A Ctrl-C becomes `Interrupted` with the way to go on, if there is a checkpoint.
        """
        with alive(self.path):
            try:
                yield
            except KeyboardInterrupt:
                if not self.can_resume:
                    raise
                raise Interrupted(
                    "Interrupted; nothing was published. "
                    f"Go on with: adapters train --resume {self.path}"
                ) from None

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self.checkpoints.steps())

    @property
    def status(self) -> Status:
        """How the run stands now."""
        return read_status(self.path)

    def published(self, version: str) -> None:
        """Keep which version the run became."""
        write_status(self.path, replace(self.status, version=version))

    def write_config(self, config: Resolved[RunConfig]) -> None:
        """The resolved configuration; a comment names the origin of what is not a default."""
        text = yaml.safe_dump(
            config.value.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        origins = "".join(f"# {key}: {origin}\n" for key, origin in sorted(config.origins.items()))
        (self.path / "config.yaml").write_text(
            f"# Where each value came from (others: default)\n{origins}{text}", encoding="utf-8"
        )

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        journal.append(self.path / "metrics.jsonl", row)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per step, a resumed run's repeated steps only once."""
        return journal.merged(journal.read(self.path / "metrics.jsonl"))

    def append_event(self, kind: str, step: int, sentence: str) -> None:
        """Add one line to `events.jsonl`."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"step": step, "kind": kind, "sentence": sentence, "time": time}
        journal.append(self.path / "events.jsonl", row)

    def events(self) -> list[dict[str, Any]]:
        """What happened: `step`, `kind`, `sentence`, `time`, in the order of time."""
        return journal.read(self.path / "events.jsonl")

    def append_sample(self, step: int, prompt: str, answer: str, ended: bool) -> None:
        """Add one line to `samples.jsonl`."""
        row = {"step": step, "prompt": prompt, "answer": answer, "ended": ended}
        journal.append(self.path / "samples.jsonl", row)

    def samples(self) -> list[dict[str, Any]]:
        """Answers in mid-run, once for each step and prompt: `step, prompt, answer, ended`."""
        rows = journal.read(self.path / "samples.jsonl")
        return list({(row["step"], row["prompt"]): row for row in rows}.values())

    def write_result(self, result: dict[str, Any]) -> None:
        """What was measured, for scripts."""
        (self.path / "result.json").write_text(json.dumps(result, indent=2) + "\n")

    def result(self) -> dict[str, Any]:
        """What `write_result` wrote; nothing before the run's end."""
        return self.read_object("result.json")

    def write_data(self, figures: dict[str, Any]) -> None:
        """What there is to learn from and to measure on."""
        (self.path / "data.json").write_text(json.dumps(figures, indent=2) + "\n")

    def data(self) -> dict[str, Any]:
        """What `write_data` wrote."""
        return self.read_object("data.json")

    def read_object(self, name: str) -> dict[str, Any]:
        """A JSON object of the run directory; an empty one where it is not there or cut off."""
        path = self.path / name
        return (journal.parsed(path.read_bytes()) or {}) if path.is_file() else {}

    def config(self) -> RunConfig:
        """The configuration that the run was begun with.

        Raises:
            ConfigError: it is not there, or of an adaptery with other options.
        """
        return resolve(RunConfig, [read_file(self.path / "config.yaml")]).value

    def origins(self) -> dict[str, str]:
        """Where each value that is no default came from, by dotted key."""
        lines = (self.path / "config.yaml").read_text(encoding="utf-8").splitlines()
        pairs = (line[2:].partition(": ") for line in lines if line.startswith("# "))
        return {key: origin for key, colon, origin in pairs if colon and " " not in key}

    def plot(self) -> None:
        """Draw loss, learning rate and gradient norm over the steps into `curves.png`."""
        from adaptery.trainers.watching.plots import save_curves

        save_curves(self.metrics(), self.path / "curves.png")
