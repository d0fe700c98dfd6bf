"""`kill -9` at any moment, and again, and the run still ends as if nothing had happened."""

import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adaptery.trainers.run_directory import RunDirectory
from tests.trainers.forked import begin, ended, lora_weights
from tests.trainers.runs import resume, run, tensors
from tests.trainers.test_control import watched
from tests.trainers.test_loop import same

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {"training__accumulation": 2, "training__batch_size": 2},
    "adalora": {"method": "adalora", "training__optimizer": "adamw_8bit"},
    "best": {"training__learning_rate": 0.05, "evaluation__patience": 3},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_again_and_again_ends_bit_for_bit_the_same(
    variant: str, tiny_base: Path, tmp_path: Path
) -> None:
    """Checkpoints after every step, so that many kills come while one is written."""
    changes = {
        "lora__dropout": 0.2,
        "training__epochs": 3,
        "training__checkpoint_every": 1,
        "training__keep_checkpoints": 2,
    } | VARIANTS[variant]

    def options(folder: Path) -> dict[str, Any]:
        return (watched(folder) if variant == "best" else {}) | changes

    whole = run(tmp_path / "whole", tiny_base, **options(tmp_path / "whole"))
    folder, chance, kills = tmp_path / "parts", random.Random(variant), 0
    folder.mkdir()
    while True:
        path = next(iter((folder / "runs").glob("*/checkpoint-*.pt")), None)
        if path is None:
            process = begin(run, folder, tiny_base, **options(folder))
        else:
            process = begin(resume, path.parent)
        if kills < 4:
            kills += kill_in_training(process, folder, chance)
        code = ended(process)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kills >= 2
    finished = lora_weights(folder).parents[1]
    assert same(tensors(whole), load_file(lora_weights(folder)))
    losses = [[r.get("loss") for r in RunDirectory(d).metrics()] for d in (whole.run, finished)]
    assert losses[0] == losses[1]


def kill_in_training(process: ForkServerProcess, folder: Path, chance: random.Random) -> int:
    """Wait until a process trains, and a little longer; returns 1 if it was killed."""
    seen = set(folder.glob("runs/*/checkpoint-*"))
    while set(folder.glob("runs/*/checkpoint-*")) <= seen:
        if not process.is_alive():
            return 0
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.15))
    process.kill()
    return 1
