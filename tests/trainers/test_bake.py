import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adaptery.trainers.bake import LowRank, settle, write_lora
from adaptery.types import BaseIdentity, sha256_of
from tests.trainers.runs import run

BASE = BaseIdentity(id="org/base", revision="abc", digest="0" * 64)
ROOT = Path(__file__).parents[2]


def test_a_layer_of_any_rank_is_written_with_its_scaling_inside(tmp_path: Path) -> None:
    layers = {
        "model.a": LowRank(torch.ones(2, 5), torch.ones(3, 2)),
        "model.b": LowRank(torch.ones(1, 5), torch.ones(3, 1)),
        "model.c": LowRank(torch.ones(0, 5), torch.ones(3, 0)),
    }
    write_lora(layers, tmp_path)
    settle(tmp_path, BASE, "template")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] == {"model.a": 2, "model.b": 1}
    assert config["target_modules"] == ["model.a", "model.b"]
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == {
        f"base_model.model.model.{layer}.lora_{side}.weight" for layer in "ab" for side in "AB"
    }


def test_what_is_no_part_of_an_adapter_is_dropped_and_sets_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"z": 1, "target_modules": ["c", "a", "b"], "base_model_name_or_path": "/tmp/x"})
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("written on a certain day")
    settle(tmp_path, BASE, "{{ template }}")
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
    }
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ template }}"
    text = (tmp_path / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["target_modules"] == ["a", "b", "c"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "abc")
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"


PROGRAM = """
import sys
from pathlib import Path
from tests.trainers.test_bake import METHODS, bytes_of
for method in METHODS:
    print(bytes_of(Path(sys.argv[1]), Path(sys.argv[2]), method))
"""
METHODS = ("lora", "adalora")


def bytes_of(folder: Path, base: Path, method: str) -> str:
    """Names and digests of what a run writes, and its manifest's digest."""
    result = run(folder, base, method=method, lora__dropout=0.1)
    files = {path.name: sha256_of(path.read_bytes()) for path in sorted(result.adapter.iterdir())}
    assert len(files) == 3
    return f"{files} {result.manifest.digest}"


def test_the_same_training_makes_the_same_bytes_whatever_the_hash_seed(
    tiny_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "elsewhere", tiny_base],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    here = [bytes_of(tmp_path, tiny_base, method) for method in METHODS]
    assert elsewhere.stdout.splitlines() == here


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_same_training_makes_the_same_bytes_again(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    one, other = (run(tmp_path / name, tiny_base, method=method) for name in "ab")
    names = sorted(path.name for path in one.adapter.iterdir())
    assert names == sorted(path.name for path in other.adapter.iterdir())
    assert len(names) == 3
    for name in names:
        assert (one.adapter / name).read_bytes() == (other.adapter / name).read_bytes()
    assert one.manifest == other.manifest
