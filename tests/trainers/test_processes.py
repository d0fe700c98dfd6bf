"""Several processes train what one would have trained."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adaptery.trainers.run_directory import RunDirectory
from tests.models import write_rows
from tests.trainers.forked import lora_weights, together
from tests.trainers.runs import run
from tests.trainers.test_loop import furthest

TWICE = {"training__batch_size": 3, "training__epochs": 3}  # 19 rows: the last step has one
ONCE = TWICE | {"training__accumulation": 2}


def uneven(folder: Path) -> dict[str, Any]:
    """Rows whose answers differ in length, so that a mean of means would show."""
    rows = [[("user", f"{n}"), ("assistant", "blue " * (n % 6 + 1) + str(n))] for n in range(19)]
    return {"data__train": str(write_rows(folder / "uneven.jsonl", rows))}


def losses(folder: Path) -> list[float]:
    (path,) = (folder / "runs").iterdir()
    return [row["loss"] for row in RunDirectory(path).metrics()]


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "adalora": {"method": "adalora"},
    "loraplus": {"method": "loraplus", "training__learning_rate": 5e-4},
}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_what_one_with_twice_the_accumulation_trains(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    """The penalty of AdaLoRA counts once, and every step has rows or none for each process."""
    changes = uneven(tmp_path) | METHODS[method]
    run(tmp_path / "one", tiny_base, **changes | ONCE)
    assert together(2, run, tmp_path / "two", tiny_base, **changes | TWICE) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, two = (load_file(lora_weights(tmp_path / name)) for name in ("one", "two"))
    assert furthest(one, two) < 1e-5
    assert max(tensor.abs().max().item() for tensor in two.values()) > 1e-2
