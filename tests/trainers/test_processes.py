"""Several processes train what one would have trained."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from adaptery.errors import ConfigError
from adaptery.trainers.processes import Processes
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.sharding import shard
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


def test_processes_that_share_the_layers_of_the_base_train_the_same(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP; 19 rows in threes, so that in some steps one process has no row of its own."""
    changes = uneven(tmp_path)
    run(tmp_path / "one", tiny_base, **changes | ONCE)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert together(2, run, tmp_path / "two", tiny_base, **changes | TWICE) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, two = (load_file(lora_weights(tmp_path / name)) for name in ("one", "two"))
    assert furthest(one, two) < 1e-5


def held_here(base: Path) -> None:
    """Each of two processes holds half of the layers' frozen weights, and all that is trained."""
    processes = Processes()
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    whole = {name: parameter.numel() for name, parameter in model.named_parameters()}
    shard(model, "cpu", processes.count)
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        spread = "layers" in name and "lora" not in name
        assert local.numel() == (whole[name] // 2 if spread else whole[name]), name


def test_each_process_holds_its_part_of_the_layers(tiny_base: Path) -> None:
    assert together(2, held_here, tiny_base) == [0, 0]


def test_deepspeed_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="--use_fsdp instead"):
        Processes()
