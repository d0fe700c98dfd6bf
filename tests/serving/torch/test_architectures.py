"""Each architecture, small and random, against itself with PEFT; and those that do not fit."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PretrainedConfig, PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import InvalidAdapter, UsageError
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.trial import try_out
from tests.serving import models
from tests.serving.torch.rig import Rig, Truth

TEXTS = [
    [(shift * i) % 113 + 5 for i in range(length)] for shift, length in ((7, 61), (5, 47), (3, 34))
]
OWNERS = ["all", None, "few"]
STEPS = [13, 13, 1, 1, 1, 16, 1, 1, 1, 1, 3, 9]
"""Pieces of prompts, single tokens, over the ends of blocks and of windows."""

SHAPE = models.SHAPE | {"initializer_range": 0.1}
LAYERS = {"num_hidden_layers": 4}
GPT = {"vocab_size": 124, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.1}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

FIT: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen2": lambda: tf.Qwen2Config(**SHAPE),
    "qwen2 with windows": lambda: tf.Qwen2Config(
        **SHAPE | LAYERS, use_sliding_window=True, sliding_window=10, max_window_layers=2
    ),
    "qwen3": lambda: tf.Qwen3Config(**SHAPE, head_dim=24),
    "llama": lambda: tf.LlamaConfig(**SHAPE | {"tie_word_embeddings": True}, mlp_bias=True),
    "llama3 rope": lambda: tf.LlamaConfig(
        **SHAPE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": lambda: tf.MistralConfig(**SHAPE, sliding_window=12),
    "gemma": lambda: tf.GemmaConfig(**SHAPE | {"num_key_value_heads": 1}, head_dim=16),
    "gemma2": lambda: tf.Gemma2Config(
        **SHAPE | LAYERS,
        head_dim=16,
        sliding_window=12,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=9,
    ),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **SHAPE | LAYERS, head_dim=16, sliding_window=12, sliding_window_pattern=3
    ),
    "phi3": lambda: tf.Phi3Config(**SHAPE, sliding_window=12, pad_token_id=0),
    "phi": lambda: tf.PhiConfig(**SHAPE, partial_rotary_factor=0.5, qk_layernorm=True),
    "granite": lambda: tf.GraniteConfig(
        **SHAPE, logits_scaling=4.0, residual_multiplier=0.5, attention_multiplier=0.3
    ),
    "olmo2": lambda: tf.Olmo2Config(**SHAPE),
    "smollm3": lambda: tf.SmolLM3Config(**SHAPE | LAYERS, pad_token_id=0),
    "cohere": lambda: tf.CohereConfig(**SHAPE, use_qk_norm=True),
    "cohere2": lambda: tf.Cohere2Config(**SHAPE | LAYERS, sliding_window=12),
    "starcoder2": lambda: tf.Starcoder2Config(**SHAPE, sliding_window=12),
    "gpt-neox": lambda: tf.GPTNeoXConfig(**SHAPE, rotary_pct=0.5),
    "opt": lambda: tf.OPTConfig(
        **SHAPE, ffn_dim=96, word_embed_proj_dim=64, pad_token_id=0, init_std=0.1
    ),
    "mixtral": lambda: tf.MixtralConfig(
        **SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=12
    ),
    "qwen2-moe": lambda: tf.Qwen2MoeConfig(
        **SHAPE, **EXPERTS, num_experts=4, shared_expert_intermediate_size=32
    ),
    "qwen3-moe": lambda: tf.Qwen3MoeConfig(**SHAPE, **EXPERTS, num_experts=4, head_dim=16),
    "deepseek-v3": lambda: tf.DeepseekV3Config(
        **SHAPE | {"num_key_value_heads": 4},
        **EXPERTS,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=12,
    ),
}
OUT_OF_REACH = {  # linear layers that do not see the batch as it is, so whose rows are whose
    "opt": ["fc1", "fc2"],
    "qwen2-moe": ["gate_proj", "up_proj", "down_proj", "shared_expert_gate"],
    "deepseek-v3": ["kv_b_proj"],
}
SPARSE = {"deepseek-v3"}  # PEFT adapts experts too where the name of a dense layer is given
UNFIT: dict[str, Callable[[], PretrainedConfig]] = {
    "no attention": lambda: tf.MambaConfig(
        vocab_size=124, hidden_size=32, num_hidden_layers=1, state_size=4
    ),
    "sinks": lambda: tf.GptOssConfig(
        **SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=12, head_dim=16
    ),
    "biased scores": lambda: tf.BloomConfig(
        vocab_size=124, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.1
    ),
    "biased scores too": lambda: tf.MptConfig(vocab_size=124, d_model=64, n_heads=4, n_layers=2),
    "nothing handed down": lambda: tf.StableLmConfig(**SHAPE),
    "chunks": lambda: tf.Llama4TextConfig(
        **SHAPE | LAYERS,
        attention_chunk_size=100,
        num_local_experts=2,
        intermediate_size_mlp=32,
        head_dim=16,
        no_rope_layers=[1, 1, 1, 0],
        moe_layers=[],
    ),
}


def make(config: PretrainedConfig) -> PreTrainedModel:
    """A random model, whose biases and norms are random too."""
    torch.manual_seed(3)
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def adapted(
    model: PreTrainedModel, layers: list[str], root: Path
) -> tuple[PeftModel, dict[str, Path]]:
    """With one adapter on all of `layers` and one on few, in memory and on disk."""
    few = [name for name in layers if name.endswith(layers[0].split(".")[-1])][1:]
    peft = get_peft_model(model, LoraConfig(r=3, lora_alpha=2, target_modules=layers), "all")
    peft.add_adapter("few", LoraConfig(r=5, lora_alpha=9, target_modules=few))
    torch.manual_seed(4)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    peft.save_pretrained(str(root))
    return peft, {name: root / name for name in ("all", "few")}


@pytest.mark.parametrize("own", [True, False], ids=["own", "torch"])
@pytest.mark.parametrize("name", FIT)
@torch.inference_mode()
def test_it_scores_a_mixed_batch_as_transformers_and_peft(
    name: str, own: bool, base: LocalBase, tmp_path: Path
) -> None:
    model = make(FIT[name]())
    ours = copy.deepcopy(model)
    ours.set_attn_implementation("sdpa")  # as transformers loads it, although it drops soft caps
    decoder, tried = try_out(ours, base, Kernels(torch.float32, 2) if own else None)
    linear = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    rest = {name.split(".")[-1] for name in linear - decoder.layers.keys()}
    assert rest == {"lm_head", *OUT_OF_REACH.get(name, [])}
    mine = [layer for layer in decoder.layers if ".mlp." not in layer or name not in SPARSE]
    peft, directories = adapted(model, mine, tmp_path)
    truth, rig = Truth(peft), Rig(base, decoder, tried, directories)
    found = rig.scores(TEXTS, [rig.adapter(owner) for owner in OWNERS], STEPS)
    for text, owner, scores in zip(TEXTS, OWNERS, found, strict=True):
        expected = truth.scores(owner, text)[ends(len(text))]
        error = (scores - expected).abs().max() / expected.std()
        assert error < 1e-4, f"{owner}: {error:.1e} of the scores' spread"
    for one, other in itertools.combinations(OWNERS, 2):
        scores, others = (truth.scores(owner, TEXTS[0])[-1] for owner in (one, other))
        assert (scores - others).abs().max() > 0.1 * scores.std(), (
            "adapters that change nothing prove nothing"
        )


@torch.inference_mode()
def test_gpt2_answers_and_refuses_adapters_of_its_own_kind_of_layer(
    base: LocalBase, tmp_path: Path
) -> None:
    model = make(tf.GPT2Config(**GPT))
    rig = Rig(base, *try_out(copy.deepcopy(model), base), {"a": tmp_path / "a"})
    for text, scores in zip(TEXTS, rig.scores(TEXTS, [None] * 3, STEPS), strict=True):
        expected = model(torch.tensor([text])).logits[0, ends(len(text))]
        assert (scores - expected).abs().max() / expected.std() < 1e-4
    peft = get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True), "a")
    peft.save_pretrained(str(tmp_path))
    with pytest.raises(InvalidAdapter, match="'fan_in_fan_out'"):
        rig.adapter("a")


def ends(length: int) -> list[int]:
    """Where in a text of `length` tokens the steps end."""
    done, found = 0, []
    for count in STEPS:
        if done < length:
            done = min(done + count, length)
            found.append(done - 1)
    return found


def test_adapters_of_experts_are_refused_in_a_sentence(base: LocalBase, tmp_path: Path) -> None:
    model = make(FIT["mixtral"]())
    rig = Rig(base, *try_out(copy.deepcopy(model), base), {"a": tmp_path / "a"})
    lora = LoraConfig(target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    get_peft_model(model, lora, "a").save_pretrained(str(tmp_path))
    with pytest.raises(InvalidAdapter, match=r"'target_parameters' is .* plain LoRA does not have"):
        rig.adapter("a")


@pytest.mark.parametrize("name", UNFIT)
def test_it_is_refused_in_a_sentence(name: str, base: LocalBase) -> None:
    model = make(UNFIT[name]())
    with pytest.raises(
        UsageError, match=f"cannot run {type(model).__name__} as it should: .*"
    ) as refused:
        try_out(model, base)
    assert refused.value.exit_code == 2
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)
