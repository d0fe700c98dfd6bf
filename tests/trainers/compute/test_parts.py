"""Norms and gated parts that keep less, against those they replace."""

import copy
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    get_peft_model,
)
from torch import Tensor, nn

from adaptery.trainers.compute import lora
from adaptery.trainers.compute.enabling import enable_packing
from adaptery.trainers.compute.losses import token_losses
from adaptery.trainers.compute.packing import pack
from adaptery.trainers.compute.parts import slim
from tests.trainers.compute.models import adapted, build, gradients, one_by_one, rows

REPLACED = {  # two layers and the norm at the end; Qwen3 also norms queries and keys
    "qwen2": 7,
    "llama": 7,
    "qwen3": 11,
    "mistral": 7,
    "phi3": 5,  # gate and up are one layer
    "gemma3_text": 0,  # its norm is x (1 + w), its gate a GELU
    "gpt_neox": 0,
}


@pytest.mark.parametrize("family", REPLACED)
def test_losses_and_gradients_stay_what_they_are(family: str) -> None:
    model = adapted(build(family))
    truth = one_by_one(model, rows())
    wanted = gradients(model, truth)
    lora.fuse(model)
    assert slim(model) == REPLACED[family]
    got = one_by_one(model, rows())
    torch.testing.assert_close(got, truth, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(model, got).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("targets", ["all-linear", ["down_proj"], ["q_proj", "gate_proj"]])
def test_packed_rows_with_every_part_replaced(targets: Any) -> None:
    model = adapted(build("qwen2"), target_modules=targets)
    data = rows(same=17)
    truth = one_by_one(model, data)
    wanted = gradients(model, truth)
    lora.fuse(model)
    slim(model)
    assert enable_packing(model) is None
    losses, _ = token_losses(model, pack(data, share=True))
    torch.testing.assert_close(losses, truth, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients(model, losses).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-4, rtol=1e-3)


def test_in_bf16_gradients_are_as_near_to_fp32_as_autograds() -> None:
    model = adapted(build("qwen2"))
    wanted = gradients(model, one_by_one(model, rows()))

    def error(low: nn.Module) -> float:
        for name, parameter in low.named_parameters():
            if "lora" not in name:
                parameter.data = parameter.data.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients(low, one_by_one(low, rows()))
        return max(float((found[n] - g).norm() / g.norm()) for n, g in wanted.items())

    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    lora.fuse(other)
    assert slim(other) == REPLACED["qwen2"]
    assert error(other) < 1.3 * error(plain)


def test_what_is_trained_or_dropped_out_goes_its_old_way() -> None:
    model = adapted(build("qwen2"), lora_dropout=0.2).train()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    other = copy.deepcopy(model)
    lora.fuse(other)
    assert slim(other) == REPLACED["qwen2"]
    torch.manual_seed(0)
    wanted = gradients(model, one_by_one(model, rows()))
    torch.manual_seed(0)
    found = gradients(other, one_by_one(other, rows()))
    assert found.keys() == wanted.keys()
    assert any("model.norm" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        AdaLoraConfig(target_modules=["down_proj"], total_step=10),
        IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
        LoHaConfig(target_modules=["down_proj"]),
        LoraConfig(target_modules=["down_proj"], use_dora=True, init_lora_weights=False),
        LoraConfig(target_parameters=["lm_head.weight"], target_modules=["q_proj"]),
    ],
    ids=lambda config: type(config).__name__,
)
def test_other_adapters_compute_as_they_do(config: PeftConfig) -> None:
    torch.manual_seed(0)
    model = get_peft_model(build("qwen2"), config)
    truth = one_by_one(model, rows())
    wanted = gradients(model, truth)
    lora.fuse(model)
    slim(model)
    assert enable_packing(model) is None
    losses, _ = token_losses(model, pack(rows()))
    torch.testing.assert_close(losses, truth, atol=1e-5, rtol=1e-5)
    found = gradients(model, losses)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


def test_replacing_leaves_every_weight_as_it_was() -> None:
    model = adapted(build("qwen2"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slim(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_part_that_computes_otherwise_is_left_alone() -> None:
    class OneMoreRMSNorm(nn.Module):  # type: ignore[misc]
        variance_epsilon = 1e-6

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)

    assert slim(OneMoreRMSNorm()) == 0


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(input_ids=torch.arange(3, 93)[None]).logits.sum()
        assert loss.requires_grad
        return sum(sizes.values())

    model = adapted(build("qwen2", intermediate_size=256))
    lora.fuse(model)
    before = kept(model)
    slim(model)
    assert kept(model) < 0.75 * before
