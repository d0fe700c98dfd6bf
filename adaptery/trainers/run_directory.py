"""The folder that a run leaves: configuration, metrics, checkpoint, plot, adapter."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from adaptery.config import Resolved
from adaptery.errors import ConfigError, Interrupted
from adaptery.trainers.config import RunConfig


class RunDirectory:
    """`runs/<name>-<time>/` and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapter = path / "adapter"
        self.checkpoint = path / "checkpoint.pt"

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
            ConfigError: it is no run directory, or has no checkpoint to go on from.
        """
        run = cls(path)
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"{path} is no run directory: it has no config.yaml.")
        if not run.checkpoint.is_file():
            raise ConfigError(f"{path} has no checkpoint to go on from; start the run anew.")
        return run

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Turn a Ctrl-C into `Interrupted` with the way to go on, if there is a checkpoint."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.checkpoint.is_file():
                raise
            raise Interrupted(
                "Interrupted; nothing was published. "
                f"Go on with: adapters train --resume {self.path}"
            ) from None

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
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, a resumed run's repeated steps only once."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        whole = (line for line in lines if line.endswith("}"))  # a crash may have cut one off
        return list({row["step"]: row for row in map(json.loads, whole)}.values())

    def write_result(self, result: dict[str, Any]) -> None:
        """What was measured, for scripts."""
        (self.path / "result.json").write_text(json.dumps(result, indent=2) + "\n")

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a crash leaves the old one or the new one, whole."""
        import torch

        partial = self.checkpoint.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.checkpoint)

    def load_checkpoint(self) -> dict[str, Any]:
        """The last checkpoint. Nothing in it is executed.

        Raises:
            ConfigError: it cannot be read.
        """
        import torch

        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint, weights_only=True, map_location="cpu"
            )
        except Exception as error:
            raise ConfigError(
                f"The checkpoint {self.checkpoint} cannot be read: {error}"
            ) from error
        return state

    def plot(self) -> None:
        """Draw loss and learning rate over the steps into `loss.png`."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = self.metrics()
        steps = [row["step"] for row in rows]
        figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
        axes.plot(steps, [row["loss"] for row in rows], color="tab:blue")
        axes.set(xlabel="step", ylabel="training loss (nats per token)", ylim=(0, None))
        rate = axes.twinx()
        rate.plot(steps, [row["learning_rate"] for row in rows], color="tab:gray", linewidth=0.8)
        rate.set(ylabel="learning rate", ylim=(0, None))
        figure.tight_layout()
        figure.savefig(self.path / "loss.png")
        pyplot.close(figure)
