"""Packed rows through whole models of many families, against each row alone."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from adaptery.trainers.compute import lora
from adaptery.trainers.compute.attention import NAME
from adaptery.trainers.compute.enabling import enable_packing
from adaptery.trainers.compute.losses import fused, label_logits, may_share, token_losses
from adaptery.trainers.compute.packing import KEPT, SHARED, Row, pack
from tests.trainers.compute.models import adapted, build, gradients, one_by_one, rows

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "llama": {},
    "qwen3": {},
    "phi3": {},
    "granite": {"logits_scaling": 3.0},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo2": {},
    "gpt_neox": {},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


@pytest.mark.parametrize("same", [0, 17])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_single_rows(family: str, same: int) -> None:
    model = adapted(build(family, **FAMILIES[family]))
    data = rows(same=same)
    truth = one_by_one(model, data)
    wanted = gradients(model, truth)
    assert enable_packing(model) is None
    lora.fuse(model)
    packed = pack(data, share=may_share(model))
    assert packed.layout.shared == same // SHARED * SHARED
    losses, _ = token_losses(model, packed)
    torch.testing.assert_close(losses, truth, atol=1e-4, rtol=1e-4)
    found = gradients(model, losses)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_changes_nothing_in_the_losses_of_others(family: str) -> None:
    """Not even the last bit, where the arithmetic of a token does not depend on its neighbours."""
    model = build(family, **FAMILIES[family])
    assert enable_packing(model) is None
    data = rows()
    losses, row = token_losses(model, pack(data))
    ids, labels = data[2]
    data[2] = ([(token + 5) % 90 + 3 for token in ids], labels)
    others, _ = token_losses(model, pack(data))
    tolerance = 1e-5 if "moe" in family else 0.0
    assert (losses - others)[row != 2].abs().max() <= tolerance
    assert (losses - others)[row == 2].abs().min() > 0


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("gemma2", {}, "caps"),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "sinks"),
        ("mamba", {"state_size": 4}, "linear_attention"),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ("bert", {"is_decoder": False}, "looks ahead"),
    ],
)
def test_other_models_say_why_not_and_stay_as_they_were(
    family: str, changes: dict[str, Any], why: str
) -> None:
    model = build(family, **changes)
    before = model.config._attn_implementation
    ids = torch.randint(3, 90, (1, 12))
    truth = model(input_ids=ids).logits
    reason = enable_packing(model)
    assert reason
    assert re.search(why, reason), reason
    assert model.config._attn_implementation == before
    assert torch.equal(model(input_ids=ids).logits, truth)
    assert not fused(model)


def test_a_classification_head_takes_padded_rows() -> None:
    decoder = build("qwen2")
    decoder.config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(decoder.config)
    assert "chosen logits" in str(enable_packing(model))


class Leaky(nn.Module):  # type: ignore[misc]
    """A last part that mixes neighbouring tokens."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.roll(1, dims=1)


def test_a_model_whose_tokens_see_other_rows_is_found_out() -> None:
    model = build("qwen2")
    model.model.layers[0].mlp = Leaky()
    assert "other rows" in str(enable_packing(model))
    assert model.config._attn_implementation != NAME


def test_a_last_layer_that_takes_all_tokens_or_none_is_not_shortened() -> None:
    class Whole(nn.Module):  # type: ignore[misc]
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            if hidden.shape[1] == KEPT:
                raise ValueError("too few tokens")
            return 2 * hidden

    model = build("qwen2")
    model.model.layers[-1].mlp = Whole()
    data = rows(longest=KEPT)
    truth = one_by_one(model, data)
    assert enable_packing(model) is None
    torch.testing.assert_close(token_losses(model, pack(data))[0], truth, atol=1e-4, rtol=1e-4)


def test_an_output_layer_whose_logits_are_changed_afterwards_gives_logits() -> None:
    model = build("granite", logits_scaling=3.0)
    assert enable_packing(model) is None
    assert not fused(model)
    plain = build("qwen2")
    assert enable_packing(plain) is None
    assert fused(plain)


@pytest.fixture
def ready() -> PreTrainedModel:
    model = build("qwen2")
    assert enable_packing(model) is None
    return model


def test_without_a_layout_the_model_is_what_it_was(ready: PreTrainedModel) -> None:
    plain = build("qwen2")
    ids = torch.randint(3, 90, (2, 12))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(ready(**inputs).logits, plain(**inputs).logits)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ready.generate(**inputs, **options), plain.generate(**inputs, **options))


def test_its_configuration_says_nothing_of_it_when_saved(
    ready: PreTrainedModel, tmp_path: Any
) -> None:
    ready.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


def test_logits_are_those_that_learned_tokens_are_predicted_by(ready: PreTrainedModel) -> None:
    data = rows()
    packed = pack(data)
    logits = label_logits(ready, packed)
    assert logits.shape == (packed.layout.learned, ready.config.vocab_size)
    losses = nn.functional.cross_entropy(logits, packed.layout.targets, reduction="none")
    torch.testing.assert_close(losses, token_losses(ready, packed)[0])


def test_rows_share_nothing_while_dropout_is_active() -> None:
    model = adapted(build("qwen2"), lora_dropout=0.1)
    assert enable_packing(model) is None
    assert may_share(model.eval())
    assert not may_share(model.train())
    other = build("qwen2", attention_dropout=0.1)
    assert enable_packing(other) is None
    assert not may_share(other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    model = adapted(build("qwen2")).train()
    wanted = gradients(model, one_by_one(model, rows()))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert enable_packing(model) is None
    lora.fuse(model)
    found = gradients(model, token_losses(model, pack(rows()))[0])
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


def test_under_autocast_losses_are_as_near_to_fp32_as_padded_ones() -> None:
    model = adapted(build("qwen2"))
    data = rows(20, same=17)
    truth = one_by_one(model, data)
    low = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        plain = one_by_one(low, data)
        assert enable_packing(low) is None
        lora.fuse(low)
        losses, _ = token_losses(low, pack(data, share=True))
    assert (losses - truth).abs().mean() < 1.5 * (plain - truth).abs().mean()


def test_the_same_rows_give_the_same_bytes() -> None:
    def once() -> list[bytes]:
        model = adapted(build("qwen2"))
        enable_packing(model)
        lora.fuse(model)
        found = gradients(model, token_losses(model, pack(rows()))[0])
        return [found[name].numpy().tobytes() for name in sorted(found)]

    assert once() == once()


def test_full_fine_tuning_gives_the_output_layer_its_gradient() -> None:
    model = build("qwen2", tie_word_embeddings=True).requires_grad_(True)
    data: list[Row] = rows()
    wanted = gradients(model, one_by_one(model, data))
    assert enable_packing(model) is None
    assert fused(model)
    found = gradients(model, token_losses(model, pack(data))[0])
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)
