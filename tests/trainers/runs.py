"""A whole training run on the tiny base in one call."""

import signal
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from adaptery.config import Layer, read_file, resolve
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.config import RunConfig
from adaptery.trainers.train import TrainingResult, train
from adaptery.trainers.watching import Silent, Watcher
from adaptery.trainers.work import Parts
from tests.models import write_rows

COLOURS = ("blue", "yellow", "red")


def rows(count: int, start: int = 0) -> list[list[tuple[str, str]]]:
    """Questions of many lengths with three answers."""
    return [
        [("user", f"{'the sky ' * (n % 5)}{n}"), ("assistant", COLOURS[n % 3])]
        for n in range(start, start + count)
    ]


def settings(folder: Path, base: Path, /, **changes: Any) -> dict[str, Any]:
    """Dotted options of a short run in fp32, 10 steps; `training__seed=1` changes one."""
    folder.mkdir(exist_ok=True)
    short = {
        "name": "colours",
        "base": str(base),
        "data.train": str(write_rows(folder / "train.jsonl", rows(20))),
        "runs": str(folder / "runs"),
        "training.precision": "fp32",
        "training.batch_size": 4,
        "training.epochs": 2,
        "training.learning_rate": 5e-3,
        "training.log_every": 1,
        "lora.r": 4,
        "lora.alpha": 8,
    }
    return short | {key.replace("__", "."): value for key, value in changes.items()}


def run(
    folder: Path, base: Path, /, *, watcher: Watcher | None = None, **changes: Any
) -> TrainingResult:
    """Train in `folder`."""
    return start(resolve(RunConfig, [Layer.of(settings(folder, base, **changes), "test")]), watcher)


def resume(path: Path, watcher: Watcher | None = None) -> TrainingResult:
    """Go on with the run directory `path`."""
    return start(resolve(RunConfig, [read_file(path / "config.yaml")]), watcher, path)


def start(config: Any, watcher: Watcher | None, again: Path | None = None) -> TrainingResult:
    plugins = PluginManager(entry_points=[])
    method = plugins.load("training_methods", config.value.method)(config.value.options)
    parts = Parts(method, plugins.load_all("data_formats"), plugins.load_all("metrics"))
    return train(config, parts, resume=again, watcher=watcher)


def tensors(result: TrainingResult) -> dict[str, Tensor]:
    """The baked adapter's."""
    return load_file(result.adapter / "adapter_model.safetensors")


class InterruptAt(Silent):
    """Presses Ctrl-C at the end of piece `step` of a phase."""

    def __init__(self, step: int, phase: str = "training") -> None:
        self.step = step
        self.wanted = phase
        self.done = 0

    def phase(self, title: str, total: int) -> None:
        self.title, self.done = title, 0

    def advance(self, pieces: int = 1, **figures: float) -> None:
        before, self.done = self.done, self.done + pieces
        if self.title == self.wanted and before == self.step - 1 and pieces:
            signal.raise_signal(signal.SIGINT)
