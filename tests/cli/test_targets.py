"""`adapters targets` and `params`: from a config.json alone, with truths that are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptery.errors import ConfigError
from tests.command import adapters, done
from tests.trainers.runs import run

QWEN2_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN25_3B = QWEN2_05B | {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
}
SEVEN = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def write_config(directory: Path, config: dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def params(base: Path, *more: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done("params", base, "--json", *more).json
    return found


def test_qwen2_05b_has_540672_parameters_in_q_and_v_of_rank_8(tmp_path: Path) -> None:
    base = write_config(tmp_path / "base", QWEN2_05B)
    (row,) = params(base, "--ranks", 8, "--targets", "q_proj,v_proj")
    assert row["trainable"] == 540_672
    assert row["share"] == pytest.approx(540_672 / 494_032_768)


def test_qwen25_3b_has_29933568_parameters_in_seven_modules_of_rank_16(tmp_path: Path) -> None:
    """Not the 8.4 million that the notes say."""
    base = write_config(tmp_path / "base", QWEN25_3B)
    assert params(base, "--ranks", 16, "--targets", SEVEN)[0]["trainable"] == 29_933_568
    assert params(base, "--ranks", 16)[0]["trainable"] == 29_933_568, "auto means the same"


def test_parameters_grow_with_the_rank(tmp_path: Path) -> None:
    base = write_config(tmp_path / "base", QWEN2_05B)
    rows = params(base, "--ranks", "4,8,16,32")
    assert [row["rank"] for row in rows] == [4, 8, 16, 32]
    assert [row["trainable"] for row in rows] == [rows[0]["trainable"] * n for n in (1, 2, 4, 8)]


@pytest.mark.parametrize(
    "method", ["lora", "qlora", "rslora", "dora", "pissa", "olora", "loraplus", "full"]
)
def test_what_is_counted_is_what_is_trained_and_written(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    result = run(tmp_path, tiny_base, method=method, training__max_steps=1)
    (row,) = params(tiny_base, "--ranks", 4, "--method", method)
    assert row["trainable"] == result.trainable_parameters
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert row["disk"] == (result.adapter / file).stat().st_size


def test_adaloras_size_on_disk_is_that_of_its_average_rank(tiny_base: Path, tmp_path: Path) -> None:
    """Ranks move between layers of different widths, so it is not told to the byte."""
    changes = {"training__epochs": 6, "training__learning_rate": 2e-2}
    result = run(tmp_path, tiny_base, method="adalora", **changes)
    (row,) = params(tiny_base, "--ranks", 4, "--method", "adalora")
    written = (result.adapter / "adapter_model.safetensors").stat().st_size
    assert row["trainable"] == result.trainable_parameters
    assert row["disk"] == pytest.approx(written, rel=0.15)


def test_targets_are_told_by_kind_and_group(tmp_path: Path) -> None:
    base = write_config(tmp_path / "base", QWEN2_05B)
    told = done("targets", base, "--json").json
    assert told["family"] == "qwen2"
    assert told["parameters"] == 494_032_768
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert layers["model.layers.N.self_attn.k_proj"] == {
        "name": "model.layers.N.self_attn.k_proj",
        "outputs": 128,
        "inputs": 896,
        "group": "attention",
        "count": 24,
    }
    assert len(layers) == 7
    assert told["targets"]["attention"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert told["targets"]["mlp"] == ["down_proj", "gate_proj", "up_proj"]
    assert told["targets"]["auto"] == sorted(SEVEN.split(","))


def test_the_router_of_a_mixture_is_in_all_and_not_in_auto(tmp_path: Path) -> None:
    config = {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe"}
    base = write_config(tmp_path / "base", config | {"num_hidden_layers": 2})
    told = done("targets", base, "--json").json["targets"]
    assert "shared_expert_gate" in told["all"]
    assert "shared_expert_gate" not in told["auto"]


def test_an_encoder_is_told_without_pooler_and_classifier(tmp_path: Path) -> None:
    config = {"architectures": ["BertModel"], "model_type": "bert", "num_hidden_layers": 3}
    base = write_config(tmp_path / "base", config)
    told = done("targets", base, "--json").json
    assert {layer["group"] for layer in told["layers"]} == {"attention", "mlp"}
    assert sum(layer["count"] for layer in told["layers"]) == 18
    table = done("targets", base).out
    assert "output.dense" in table
    assert "pooler" not in table
    heads = params(base, "--ranks", 8, "--targets", "query,value")[0]["trainable"]
    classifier = 2 * 768 + 2
    assert heads == 3 * 2 * 8 * (768 + 768) + classifier


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("params", "BASE", "--ranks", "eight"), "not a list of positive numbers"),
        (("params", "BASE", "--ranks", "0"), "not a list of positive numbers"),
        (("params", "BASE", "--method", "lroa"), "Did you mean 'lora'"),
        (("params", "BASE", "--targets", "q_porj"), "Did you mean 'q_proj'"),
        (("params", "BASE", "--option", "ratio=3"), "no option 'ratio'"),
        (("params", "BASE", "--ranks", "1000", "--method", "pissa"), "896 parts at most"),
        (("targets", "./nowhere"), "no directory './nowhere'"),
        (("targets", "EMPTY"), "config.json cannot be read"),
        (("targets", "STRANGE"), "No model can be made"),
    ],
)
def test_what_cannot_be_told_is_a_sentence(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "BASE": write_config(tmp_path / "base", QWEN2_05B | {"num_hidden_layers": 1}),
        "EMPTY": tmp_path / "empty",
        "STRANGE": write_config(tmp_path / "strange", {"model_type": "no-such-model"}),
    }
    refused = adapters(*(places.get(word, word) for word in command))
    assert refused.code == ConfigError.exit_code
    assert words in refused.err
    assert "Traceback" not in refused.err
