"""An adapter and its base, by their headers: what fits, and what belongs to another base."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptery.base_model import LocalBase
from adaptery.errors import BaseMismatch
from adaptery.registry.gate.fit import check_fit
from tests.adapters import BASE, lora_tensors, make_adapter, write_config, write_weights

LAYER = "model.layers.0.self_attn"
SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    f"{LAYER}.q_proj.weight": (16, 16),
    f"{LAYER}.v_proj.weight": (8, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 24),
    "model.norm.weight": (16,),
}


def make_base(directory: Path, shapes=SHAPES, dtype=np.float16) -> LocalBase:
    directory.mkdir()
    tensors = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    return LocalBase(directory, BASE)


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path / "base")


def adapter(directory, *layers, r=4, **config):
    """An adapter of (module, inputs, outputs); `config` goes into its configuration."""
    make_adapter(directory, r=r)
    tensors = {}
    for module, inputs, outputs in layers:
        end = "embedding_" if module.endswith("embed_tokens") else ""
        weight = "" if end else ".weight"
        name = f"base_model.model.{module}.lora_{end}"
        tensors[f"{name}A{weight}"] = np.ones((r, inputs), np.float32)
        tensors[f"{name}B{weight}"] = np.ones((outputs, r), np.float32)
    write_weights(directory, tensors)
    write_config(directory, r=r, **config)
    return directory


Q, V, DOWN = f"{LAYER}.q_proj", f"{LAYER}.v_proj", "model.layers.0.mlp.down_proj"


def test_an_adapter_of_this_base_fits(base, tmp_path):
    layers = [(Q, 16, 16), (V, 16, 8), (DOWN, 24, 16), ("model.embed_tokens", 40, 16)]
    check_fit(adapter(tmp_path / "a", *layers), base)


def test_a_tied_head_is_as_wide_as_the_embedding(base, tmp_path):
    check_fit(adapter(tmp_path / "a", ("lm_head", 16, 40)), base)
    with pytest.raises(BaseMismatch, match=r"'lm_head' .* is \(40, 16\)"):
        check_fit(adapter(tmp_path / "b", ("lm_head", 16, 41)), base)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (("model.layers.99.self_attn.q_proj", 16, 16), r"has no layer 'model\.layers\.99\."),
        (("model.layers.0.self_attn.z_proj", 16, 16), r"has no layer .*z_proj'"),
        ((Q, 8192, 8192), r"q_proj' has lora_A of shape \(4, 8192\) .* it is \(16, 16\)"),
        ((V, 8, 16), r"for a weight of \(16, 8\); in the base .* it is \(8, 16\)"),
        (("model.embed_tokens", 16, 40), r"for a weight of \(16, 40\); .* it is \(40, 16\)"),
    ],
)
def test_an_adapter_of_another_base_is_refused_by_layer_and_shape(base, tmp_path, layer, sentence):
    directory = adapter(tmp_path / "a", (DOWN, 24, 16), layer)
    with pytest.raises(BaseMismatch, match=sentence):
        check_fit(directory, base)


def test_a_conv1d_keeps_its_weight_the_other_way_round(tmp_path):
    base = make_base(tmp_path / "base", {"h.0.attn.c_attn.weight": (16, 48)})
    layer = ("transformer.h.0.attn.c_attn", 16, 48)
    check_fit(adapter(tmp_path / "a", layer, fan_in_fan_out=True), base)
    with pytest.raises(BaseMismatch, match=r"for a weight of \(48, 16\)"):
        check_fit(adapter(tmp_path / "b", layer), base)


def test_widths_are_not_told_from_packed_weights(tmp_path):
    base = make_base(tmp_path / "base", {f"{Q}.weight": (128, 1)}, np.uint8)
    check_fit(adapter(tmp_path / "a", (Q, 16, 16)), base)
    with pytest.raises(BaseMismatch, match="no layer"):
        check_fit(adapter(tmp_path / "b", (V, 16, 16)), base)


def test_a_tensor_that_replaces_one_of_the_base_has_its_shape(base, tmp_path):
    directory = adapter(tmp_path / "a", (Q, 16, 16), modules_to_save=["norm"])
    tensors = lora_tensors([Q]) | {"base_model.model.model.norm.weight": np.ones(16, np.float32)}
    write_weights(directory, tensors)
    check_fit(directory, base)
    tensors["base_model.model.model.norm.weight"] = np.ones(17, np.float32)
    write_weights(directory, tensors)
    with pytest.raises(BaseMismatch, match=r"'model\.norm\.weight' has the shape \(17,\)"):
        check_fit(directory, base)


def test_of_other_methods_nothing_is_claimed(base, tmp_path):
    directory = adapter(tmp_path / "a", (Q, 5, 5))
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    check_fit(directory, base)


def test_the_tensors_of_the_tiny_base_are_those_that_transformers_saved(tiny_base):
    from safetensors import safe_open

    with safe_open(tiny_base / "model.safetensors", "np") as file:
        expected = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
    assert {n: t.shape for n, t in LocalBase(tiny_base, BASE).tensors.items()} == expected
