"""`adapters import`: adapters that PEFT itself saved, for the tiny base."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.command import Outcome, adapters, done


@pytest.fixture
def at(tmp_path: Path) -> tuple[str, Path]:
    """The flag that names this test's registry."""
    return ("--registry", tmp_path / "registry")


def trained(base: Path, directory: Path, **config: object) -> Path:
    """An adapter that PEFT saves, as if trained: its B is not zero."""
    options = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options | config))
    adapted.save_pretrained(directory)
    return directory


def logits(base: Path, directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return (
            PeftModel.from_pretrained(model, directory)
            .eval()(input_ids=torch.arange(3, 23).view(1, 20))
            .logits
        )


def refused(outcome: Outcome, code: int, *parts: str) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


def test_an_adapter_that_peft_saved_becomes_the_next_version(
    tiny_base: Path, tmp_path: Path, at: tuple[str, Path]
) -> None:
    source = trained(tiny_base, tmp_path / "their-run")
    outcome = done("import", source, "--name", "theirs", "--reason", "a gift", *at)
    assert outcome.out.startswith("theirs@1 is sha256:")
    assert f"(lora on {tiny_base})" in outcome.out
    assert "Left behind: README.md." in outcome.err
    version = LocalRegistry.open(str(at[1])).resolve(AdapterRef.parse("theirs"))
    kept = LocalRegistry.open(str(at[1])).materialize(version)
    assert torch.equal(logits(tiny_base, source), logits(tiny_base, kept))
    assert done("history", "theirs", "--json", *at).json[0]["reason"] == "a gift"
    again = done("import", source, "--name", "theirs", "--json", *at).json
    assert (again["version"], again["left_behind"]) == (1, ["README.md"])


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"use_rslora": True}, "rslora"),
        ({"use_dora": True}, "dora"),
        ({"rank_pattern": {r"layers\.0\..*_proj": 2}, "alpha_pattern": {"q_proj": 3}}, "lora"),
        ({"target_modules": r".*\.(q|v)_proj"}, "lora"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "lora"),
        ({"modules_to_save": ["norm"]}, "lora"),
    ],
    ids=["rslora", "dora", "patterns", "targets by pattern", "embedding", "saved module"],
)
def test_what_peft_can_save_can_be_imported(
    tiny_base: Path, tmp_path: Path, at: tuple[str, Path], config: dict[str, object], method: str
) -> None:
    source = trained(tiny_base, tmp_path / "their-run", **config)
    shown = done("import", source, "--name", "theirs", "--json", *at).json
    assert shown["method"] == method
    manifest = done("show", "theirs", "--json", *at).json["manifest"]
    saved = json.loads((source / "adapter_config.json").read_text())
    assert manifest["packages"] == {"peft": saved["peft_version"]}
    assert manifest["config"]["lora"]["r"] == 4


def test_another_base_is_refused_by_layer_and_shape(
    tiny_base: Path, tmp_path: Path, at: tuple[str, Path]
) -> None:
    from tests.models import write_tiny_base

    source = trained(tiny_base, tmp_path / "their-run")
    wide = write_tiny_base(tmp_path / "wide", hidden_size=128)
    outcome = adapters("import", source, "--name", "theirs", "--base", wide, *at)
    refused(outcome, 2, "proj' has lora_A of shape (4, ", "trained on another base")
    assert not at[1].exists()


def test_a_pickle_is_refused_with_the_way_out(
    tiny_base: Path, tmp_path: Path, at: tuple[str, Path]
) -> None:
    from safetensors.torch import load_file

    source = trained(tiny_base, tmp_path / "their-run")
    torch.save(load_file(source / "adapter_model.safetensors"), source / "adapter_model.bin")
    (source / "adapter_model.safetensors").unlink()
    refused(adapters("import", source, "--name", "theirs", *at), 2, "--convert-pickle")
    outcome = done("import", source, "--name", "theirs", "--convert-pickle", "--json", *at)
    assert outcome.json["version"] == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere", "--name", "x"], "There is no directory 'nowhere'"),
        (["hf://a/b/c", "--name", "x"], "write hf://ORG/REPO[@REVISION]"),
        ([".", "--name", "../x"], "'../x' cannot name an adapter"),
        ([".", "--name", "x"], "is no PEFT adapter: it has no adapter_config.json"),
        (["."], "Missing option '--name'"),
    ],
)
def test_bad_input_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: tuple[str, Path],
    arguments: list[str],
    part: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    outcome = adapters("import", *arguments, *at)
    assert outcome.code == 2
    assert part in outcome.err
    assert "Traceback" not in outcome.err
