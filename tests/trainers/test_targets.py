import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    DistilBertConfig,
    FalconConfig,
    GlmConfig,
    GPT2Config,
    GPTNeoXConfig,
    MambaConfig,
    MixtralConfig,
    ModernBertConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    RobertaConfig,
)

from adaptery.errors import ConfigError, UnknownName
from adaptery.trainers.config import LoraSettings
from adaptery.trainers.targets import (
    group_of,
    head_modules,
    linear_layers,
    resolve_targets,
    short_names,
)

ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
MLP = ["down_proj", "gate_proj", "up_proj"]
FUSED = ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
BERT = ["intermediate.dense", "key", "output.dense", "query", "value"]  # both output.dense

# Family → what `auto` means for it, as other tools' documentation of that family says.
DECODERS: list[tuple[PretrainedConfig, list[str]]] = [
    (Qwen2Config(num_hidden_layers=2), [*ATTENTION, *MLP]),
    (OPTConfig(num_hidden_layers=2), ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]),
    (GPTNeoXConfig(num_hidden_layers=2), FUSED),
    (FalconConfig(num_hidden_layers=2), FUSED),
    (BloomConfig(n_layer=2), FUSED),
    (GlmConfig(num_hidden_layers=2), [*ATTENTION, "down_proj", "gate_up_proj"]),
    (GPT2Config(n_layer=2), ["c_attn", "c_fc", "c_proj"]),
    (
        Qwen2MoeConfig(num_hidden_layers=2),
        [*ATTENTION, *MLP],  # of the shared expert; not its gate, not the router
    ),
    (MixtralConfig(num_hidden_layers=2), ATTENTION),  # its experts are no linear layers
    (
        DeepseekV3Config(num_hidden_layers=2),
        ["kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj", *MLP],
    ),
    (MambaConfig(num_hidden_layers=2), ["dt_proj", "in_proj", "out_proj", "x_proj"]),
]
ENCODERS: list[tuple[PretrainedConfig, list[str], tuple[str, ...]]] = [
    (BertConfig(num_hidden_layers=2), [*BERT], ("classifier",)),
    (RobertaConfig(num_hidden_layers=2), [*BERT], ("classifier",)),
    (
        DistilBertConfig(n_layers=2),
        ["k_lin", "lin1", "lin2", "out_lin", "q_lin", "v_lin"],
        ("pre_classifier", "classifier"),
    ),
    (
        AlbertConfig(num_hidden_layers=2),
        ["dense", "ffn", "ffn_output", "key", "query", "value"],
        ("classifier",),
    ),
    (ModernBertConfig(num_hidden_layers=2), ["Wi", "Wo", "Wqkv"], ("head", "classifier")),
    (Qwen2Config(num_hidden_layers=2), [*ATTENTION, *MLP], ("score",)),
]


def family(config: PretrainedConfig) -> str:
    return config.model_type


def outline(config: PretrainedConfig, auto: type = AutoModelForCausalLM) -> PreTrainedModel:
    with torch.device("meta"):
        return auto.from_config(config)


def adapted(model: PreTrainedModel, targets: list[str], task_type: str) -> set[str]:
    """The modules that PEFT changes, heads that are trained whole left out."""
    config = LoraConfig(target_modules=targets, task_type=task_type)
    return set(get_peft_model(model, config).base_model.targeted_module_names)


@pytest.mark.parametrize(
    ("config", "targets"), DECODERS, ids=lambda value: getattr(value, "model_type", "")
)
def test_auto_is_attention_and_mlp_of_the_family(
    config: PretrainedConfig, targets: list[str]
) -> None:
    model = outline(config)
    assert {name.rpartition(".")[2] for name in resolve_targets(model, "auto")} == set(targets)


@pytest.mark.parametrize(
    ("config", "targets", "heads"), ENCODERS, ids=lambda value: getattr(value, "model_type", "")
)
def test_auto_leaves_poolers_and_heads_of_classifiers_alone(
    config: PretrainedConfig, targets: list[str], heads: tuple[str, ...]
) -> None:
    model = outline(config, AutoModelForSequenceClassification)
    assert resolve_targets(model, "auto") == sorted(targets)
    assert head_modules(model) == heads


@pytest.mark.parametrize("wanted", ["auto", "all", "attention", "mlp"])
@pytest.mark.parametrize("config", [row[0] for row in ENCODERS], ids=family)
def test_peft_adapts_what_was_resolved_and_nothing_else(
    config: PretrainedConfig, wanted: str
) -> None:
    model = outline(config, AutoModelForSequenceClassification)
    layers = linear_layers(model)
    groups = {"auto": ("attention", "mlp"), "all": ("attention", "mlp", "router", "other")}
    wanted_groups = groups.get(wanted, (wanted,))
    expected = {layer.name for layer in layers if layer.group in wanted_groups}
    targets = resolve_targets(model, wanted)
    assert adapted(model, targets, "SEQ_CLS") == expected
    assert not any(re.search("pooler|classifier|score|head", name) for name in expected)


def test_an_encoders_groups_share_no_layer() -> None:
    model = outline(BertConfig(num_hidden_layers=1), AutoModelForSequenceClassification)
    assert resolve_targets(model, "attention") == [
        "attention.output.dense",
        "key",
        "query",
        "value",
    ]
    assert resolve_targets(model, "mlp") == ["0.output.dense", "intermediate.dense"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.block_sparse_moe.gate", "router"),
        ("model.layers.0.mlp.shared_expert_gate", "router"),
        ("model.layers.0.mlp.gate_proj", "mlp"),
        ("model.layers.0.block_sparse_moe.experts.3.w1", "mlp"),
        ("model.visual.blocks.0.attn.qkv", "tower"),
        ("model.vision_tower.encoder.layers.0.mlp.fc1", "tower"),
        ("encoder.block.0.layer.0.SelfAttention.q", "attention"),
        ("encoder.block.0.layer.1.DenseReluDense.wi", "mlp"),
        ("transformer.encoder.layers.0.self_attention.query_key_value", "attention"),  # ChatGLM
        ("backbone.layers.0.mixer.in_proj", "other"),
    ],
)
def test_what_a_layer_is_for_stands_in_its_name(name: str, group: str) -> None:
    assert group_of(name) == group


def test_the_linear_layers_are_all_but_the_output_layer(model: PreTrainedModel) -> None:
    layers = linear_layers(model)
    assert len(layers) == 14
    assert {layer.name.rpartition(".")[2] for layer in layers} == {*ATTENTION, *MLP}
    for layer in layers:
        assert model.get_submodule(layer.name).weight.shape == (layer.outputs, layer.inputs)


@pytest.mark.parametrize(
    ("wanted", "targets"),
    [
        ("all", sorted([*ATTENTION, *MLP])),
        ("auto", sorted([*ATTENTION, *MLP])),
        ("attention", ATTENTION),
        ("mlp", MLP),
        (("v_proj", "q_proj"), ["q_proj", "v_proj"]),
        (("model.layers.1.mlp.up_proj",), ["model.layers.1.mlp.up_proj"]),
        (("self_attn.q_proj",), ["self_attn.q_proj"]),
    ],
)
def test_targets_are_resolved(
    model: PreTrainedModel, wanted: str | tuple[str, ...], targets: list[str]
) -> None:
    assert resolve_targets(model, wanted) == targets


def test_a_name_that_also_means_something_else_is_qualified() -> None:
    modules = ["layer.0.output.dense", "layer.0.attention.output.dense", "pooler.dense", "pooler"]
    assert short_names(modules[:2], modules) == ["output.dense"]
    assert short_names(modules[1:2], modules) == ["attention.output.dense"]
    assert short_names(modules[:1], modules) == ["0.output.dense"]


def test_an_unknown_layer_is_named_with_the_nearest_one(model: PreTrainedModel) -> None:
    with pytest.raises(UnknownName, match=r"'q_porj'.*Did you mean 'q_proj'"):
        resolve_targets(model, ("v_proj", "q_porj"))


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_output_layer_and_embeddings_are_no_targets(model: PreTrainedModel, name: str) -> None:
    with pytest.raises(UnknownName, match=name):
        resolve_targets(model, (name,))


def test_a_group_that_the_model_does_not_have_is_a_sentence(model: PreTrainedModel) -> None:
    del model.model.layers[0].mlp, model.model.layers[1].mlp
    with pytest.raises(ConfigError, match=r"targets=mlp.*no such linear layer.*groups: attention"):
        resolve_targets(model, "mlp")


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("all", "all"),
        ("auto", "auto"),
        ("mlp", "mlp"),
        ("q_proj", ("q_proj",)),
        ("a, b,", ("a", "b")),
    ],
)
def test_a_flag_names_targets_with_commas(text: str, targets: str | tuple[str, ...]) -> None:
    assert LoraSettings(targets=text).targets == targets


@pytest.mark.parametrize("text", ["", ",", " "])
def test_no_target_at_all_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="target"):
        LoraSettings(targets=text)
