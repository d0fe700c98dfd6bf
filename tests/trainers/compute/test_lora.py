"""Fused LoRA layers against PEFT's own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from adaptery.trainers.compute.lora import fuse
from tests.trainers.compute.models import adapted, build, gradients, one_by_one, rows

LAYERS = 14  # linear layers of the model below


def pair(**changes: Any) -> tuple[PeftModel, PeftModel]:
    """The same model twice, the second one fused."""
    model = adapted(build("qwen2"), **changes)
    other = copy.deepcopy(model)
    assert fuse(other) == LAYERS
    return model, other


def answers(model: PeftModel) -> torch.Tensor:
    return one_by_one(model, rows())


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_losses_and_gradients_are_pefts(changes: dict[str, Any]) -> None:
    model, other = pair(**changes)
    truth, got = answers(model), answers(other)
    torch.testing.assert_close(got, truth, atol=1e-5, rtol=1e-5)
    wanted = gradients(model, truth)
    found = gradients(other, got)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_under_autocast_they_are_as_near_to_fp32_as_pefts() -> None:
    model, other = pair()
    truth = answers(model)
    wanted = gradients(model, truth)

    def errors(low: PeftModel) -> tuple[float, float]:
        with torch.autocast("cpu", torch.bfloat16):
            losses = answers(low)
        found = gradients(low, losses)
        worst = max(float((found[n] - g).norm() / g.norm()) for n, g in wanted.items())
        return float((losses - truth).detach().abs().max()), worst

    ours, pefts = errors(other), errors(model)
    assert ours[0] < 2 * pefts[0] + 0.01
    assert ours[1] < 1.5 * pefts[1]
    assert all(p.dtype == torch.float32 for p in other.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"lora_dropout": 0.3}, {"lora_bias": True}]
)
def test_what_is_not_plain_lora_goes_pefts_way(changes: dict[str, Any]) -> None:
    targets = {"target_modules": ["q_proj", "k_proj", "v_proj"]} if "lora_bias" in changes else {}
    model = adapted(build("qwen2"), **changes, **targets).train()
    other = copy.deepcopy(model)
    fuse(other)
    torch.manual_seed(1)
    truth = answers(model)
    torch.manual_seed(1)
    assert torch.equal(answers(other), truth)


def test_dropout_is_off_in_evaluation_and_layers_are_fused_then() -> None:
    model, other = pair(lora_dropout=0.3)
    torch.testing.assert_close(answers(other.eval()), answers(model.eval()), atol=1e-5, rtol=1e-5)


def test_a_fused_adapter_can_be_switched_off_merged_and_saved(tmp_path: Path) -> None:
    model, other = pair()
    truth = answers(model)
    with model.disable_adapter(), other.disable_adapter():
        assert torch.equal(answers(other), answers(model))
        assert not torch.allclose(answers(other), truth)
    model.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "two")
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    other.merge_adapter()
    torch.testing.assert_close(answers(other), truth, atol=1e-4, rtol=1e-4)
    other.unmerge_adapter()
    torch.testing.assert_close(answers(other), truth, atol=1e-4, rtol=1e-4)
    merged = other.merge_and_unload()
    torch.testing.assert_close(one_by_one(merged, rows()), truth, atol=1e-4, rtol=1e-4)


def test_a_trained_base_gets_its_gradients() -> None:
    """Full fine-tuning beside an adapter: the fused operation is for frozen weights only."""
    model, other = pair()
    for one in (model, other):
        one.requires_grad_(True)
    wanted, found = gradients(model, answers(model)), gradients(other, answers(other))
    assert found.keys() == wanted.keys()
    assert any("base_layer" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_four_bit_base_layers_compute_for_themselves(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    build("qwen2", hidden_size=64, intermediate_size=64, head_dim=16).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    model = adapted(quantised.requires_grad_(False))
    truth = answers(model)
    wanted = gradients(model, truth)
    assert fuse(model) == LAYERS
    got = answers(model)
    torch.testing.assert_close(got, truth, atol=1e-4, rtol=1e-4)
    found = gradients(model, got)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


def test_the_fused_operation_keeps_its_input_and_no_copy_of_it() -> None:
    model, other = pair()
    ids = torch.randint(3, 100, (1, 256))

    def kept(model: PeftModel) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device.type == "cpu" and not isinstance(tensor, torch.nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            loss = model.bfloat16()(input_ids=ids).logits.sum()
        assert loss.requires_grad
        return sum(sizes.values())

    assert kept(other) < kept(model)
