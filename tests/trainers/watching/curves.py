"""Histories of runs: recorded from real ones, and made up.

`curves.json` holds the first 80 to 150 steps of runs on `examples/tiny-base`, one line per step:
`sections-…` classify package descriptions, `texts-…` write one from a title. `memory` is that of
two more such runs, in MB.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptery.config import Layer, resolve
from adaptery.trainers.config import RunConfig
from adaptery.trainers.watching.alarms import findings
from adaptery.trainers.watching.history import History

RECORDED: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("curves.json").read_text()
)
MEMORY: dict[str, list[float]] = RECORDED.pop("memory")
HEALTHY = (
    "sections-adalora",
    "sections-lora-16",
    "sections-lora-4",
    "sections-lora-slow",
    "sections-loraplus",
    "sections-random-labels",
    "texts-lora",
)


def settings(**changes: Any) -> RunConfig:
    """A configuration; `training__warmup=0` changes one option."""
    values = {"name": "a", "base": "b", "data.train": "d", "training.log_every": 1}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return resolve(RunConfig, [Layer.of(values, "test")]).value


def recorded(name: str, lines: int = 1) -> tuple[RunConfig, list[dict[str, float]]]:
    """A real run, as it would have been logged every `lines` steps."""
    run = RECORDED[name]
    config = settings(
        method=run["method"],
        training__batch_size=run["batch_size"],
        training__learning_rate=max(run["learning_rate"]),
        training__log_every=lines,
        training__max_steps=len(run["loss"]),
    )
    per_epoch = math.ceil(run["rows"] / run["batch_size"])
    rows = []
    for end in range(lines, len(run["loss"]) + 1, lines):
        part = slice(end - lines, end)
        row = {
            "step": end,
            "epoch": end / per_epoch,
            "loss": float(np.average(run["loss"][part], weights=run["tokens"][part])),
            "learning_rate": run["learning_rate"][end - 1],
            "grad_norm": run["grad_norm"][end - 1],
        }
        measured = run["held_out"].get(str(end))
        rows.append(row | ({"eval.loss": measured} if measured else {}))
    return config, rows


def raised(config: RunConfig, rows: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, int]]:
    """Every alarm that is raised while the rows come one by one, with the step, once each."""
    history, seen = History(config), set()
    for row in rows:
        history.add(row)
        for finding in findings(history):
            if finding.alarm not in seen:
                seen.add(finding.alarm)
                yield finding.alarm, int(row["step"])


def made_up(losses: Sequence[float], **columns: Any) -> list[dict[str, float]]:
    """Rows of a run of three epochs with these losses; other columns are lists or one value."""
    count = len(losses)
    rows = []
    for index, loss in enumerate(losses):
        row = {"step": index + 1, "epoch": 3 * (index + 1) / count, "loss": float(loss)}
        row |= {"learning_rate": 1e-3, "grad_norm": 1.0}
        for name, value in columns.items():
            row[name.replace("__", ".")] = float(value[index] if np.ndim(value) else value)
        rows.append(row)
    return rows


def falling(count: int = 60, seed: int = 0, start: float = 3.0, end: float = 0.8) -> Any:
    """A healthy loss: an exponential fall, and noise that is a share of it."""
    noise = np.random.default_rng(seed).gamma(16, 1 / 16, count)
    return (end + (start - end) * np.exp(-np.arange(count) / (count / 5))) * noise
