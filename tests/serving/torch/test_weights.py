"""An adapter is applied in full or refused, and the refusal says why."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from adaptery.errors import InvalidAdapter
from adaptery.serving.torch.lora import Adapter
from adaptery.serving.torch.weights import read_adapter
from tests.serving import models

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base_model(base_directory: Path):
    return models.load_base(base_directory)


@pytest.fixture(scope="module")
def layers(base_model) -> dict[str, torch.nn.Linear]:
    return {
        name: layer
        for name, layer in base_model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    }


@pytest.fixture
def adapter(tmp_path: Path, adapters: dict[str, Path]) -> Path:
    """A good adapter of rank 2 on q_proj and v_proj, to be spoilt."""
    return Path(shutil.copytree(adapters["narrow"], tmp_path / "adapter"))


def read(directory: Path, layers, dtype=torch.float32) -> Adapter:
    return read_adapter("a@1", directory, layers, dtype, torch.device("cpu"))


def spoil(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors")


def test_the_scaling_is_folded_into_b(adapters, layers):
    narrow = read(adapters["narrow"], layers)
    stored = load_file(adapters["narrow"] / "adapter_model.safetensors")
    factors = narrow.layers["model.layers.0.self_attn.q_proj"]
    assert torch.equal(factors.a, stored[f"{Q0}.lora_A.weight"])
    assert torch.equal(factors.b, stored[f"{Q0}.lora_B.weight"] * 2)  # alpha 4, rank 2


def test_every_layer_has_its_own_rank_and_nothing_is_padded(adapters, layers):
    mixed = read(adapters["mixed"], layers)
    ranks = {name.split("layers.")[1]: len(f.a) for name, f in mixed.layers.items()}
    assert ranks["0.mlp.down_proj"] == 7
    assert ranks["0.mlp.up_proj"] == 4
    assert ranks["1.mlp.up_proj"] == 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"some_future_field": 3}, "some_future_field"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"r": 0}, "'r'"),
        ({"r": 3}, "declared rank"),
        ({"rank_pattern": {"q_proj": 4}}, "declared rank"),
        ({"target_modules": ["q_proj"]}, "not a declared target module"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "has no matrices"),
        ({"target_modules": "["}, "cannot be read"),
        ({"layers_to_transform": [0]}, "not a declared target module"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_declaration_that_cannot_be_obeyed_is_refused(adapter, layers, changes, complaint):
    models.edit_config(adapter, **changes)
    with pytest.raises(InvalidAdapter, match=complaint):
        read(adapter, layers)


def set_tensor(key: str, value: torch.Tensor):
    return lambda tensors: tensors.update({key: value})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop(f"{Q0}.lora_A.weight"), "no matrix lora_A"),
        (lambda t: t.pop(f"{Q0}.lora_B.weight"), "no matrix lora_B"),
        (lambda t: t.clear(), "no tensors"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.ones(2, 32)), "shape"),
        (set_tensor(f"{Q0}.lora_B.weight", torch.ones(32, 2)), "shape"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.ones(3, 64)), "shape"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.full((2, 64), float("nan"))), "not finite"),
        (set_tensor(f"{Q0}.lora_B.weight", torch.full((64, 2), float("inf"))), "not finite"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.ones(2, 64, dtype=torch.int32)), "I32"),
        (set_tensor("base_model.model.lm_head.weight", torch.ones(2)), "not a LoRA matrix"),
        (set_tensor(f"{Q0}.lora_magnitude_vector", torch.ones(2)), "not a LoRA matrix"),
        (set_tensor("whatever", torch.ones(2)), "not a LoRA matrix"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(adapter, layers, change, complaint):
    spoil(adapter, change)
    with pytest.raises(InvalidAdapter, match=complaint):
        read(adapter, layers)


def rename(old: str, new: str):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if old in key]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [("layers.1.", "layers.7."), ("model.model.layers", "model.transformer.h"), ("q_proj", "wq")],
)
def test_layers_that_the_base_does_not_have_are_refused(adapter, layers, old, new):
    spoil(adapter, rename(old, new))
    with pytest.raises(InvalidAdapter, match="no linear layer"):
        read(adapter, layers)


def test_an_adapter_of_the_output_layer_is_refused(tmp_path, base_directory, layers):
    directory = models.write_adapter(
        tmp_path, base_directory, 0, r=2, target_modules=["q_proj", "lm_head"]
    )
    with pytest.raises(InvalidAdapter, match="lm_head"):
        read(directory, layers)


def test_an_adapter_of_the_embedding_is_refused(tmp_path, base_directory, layers):
    directory = models.write_adapter(
        tmp_path, base_directory, 0, r=2, target_modules=["q_proj", "embed_tokens"]
    )
    with pytest.raises(InvalidAdapter, match="embed"):
        read(directory, layers)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        AdaLoraConfig(init_r=4, target_modules=["q_proj"], total_step=10),
    ],
    ids=["dora", "modules_to_save", "adalora"],
)
def test_what_peft_saves_of_other_methods_is_refused(tmp_path, base_directory, layers, config):
    get_peft_model(models.load_base(base_directory), config).save_pretrained(tmp_path)
    with pytest.raises(InvalidAdapter):
        read(tmp_path, layers)


def test_numbers_too_large_for_the_number_format_are_refused(adapter, layers):
    spoil(adapter, set_tensor(f"{Q0}.lora_A.weight", torch.full((2, 64), 1e6)))
    assert read(adapter, layers)
    with pytest.raises(InvalidAdapter, match="float16"):
        read(adapter, layers, torch.float16)


def test_damaged_files_are_refused(adapter, layers):
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(InvalidAdapter):
        read(adapter, layers)
    weights.unlink()
    with pytest.raises(InvalidAdapter):
        read(adapter, layers)
    weights.write_bytes(content)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(InvalidAdapter):
        read(adapter, layers)
