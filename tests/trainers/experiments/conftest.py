"""A configuration to vary, and the program that stands in for the one that trains."""

import sys
from pathlib import Path

import pytest

from adaptery.config import Layer, Resolved, resolve
from adaptery.trainers.config import RunConfig
from tests.trainers.experiments import stand_in

COMMAND = (sys.executable, stand_in.__file__)


@pytest.fixture
def config(tmp_path: Path) -> Resolved[RunConfig]:
    """A run on rows that nobody reads."""
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text(f"{name}\n")
    values = {
        "name": "colours",
        "base": "nowhere",
        "data.train": str(tmp_path / "train.jsonl"),
        "data.eval": str(tmp_path / "eval.jsonl"),
        "lora.r": 4,
        "lora.alpha": 8,
        "training.learning_rate": 1e-3,
    }
    return resolve(RunConfig, [Layer.of(values, "test")])
