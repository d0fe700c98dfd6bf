"""Norms and gated feed-forward parts that keep less for the backward pass, and pass memory less.

autograd keeps every intermediate result of such formulas, several times what the layers around
them need. Here the backward pass computes them again from the inputs. A part is replaced only if it
computes what the formula here computes, which is tried on it.
"""

from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from adaptery.trainers.compute.lora import (
    add_update,
    computing_dtype,
    plain_adapter,
    update_gradients,
)

if TYPE_CHECKING:
    from peft import PeftModel

GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def slim(model: "PeftModel | nn.Module") -> int:
    """Replace the norms and gated parts of `model` that can be; how many those are.

    Call it before `enable_packing`, which may have the last gated part leave out tokens.
    """
    training = model.training
    model.eval()
    free = [module for module in model.modules() if "forward" not in vars(module)]
    norms = [module for module in free if is_norm(module)]
    gates = [module for module in free if is_gated(module)]
    for module in norms:
        module.forward = MethodType(norm, module)
    for module in gates:
        module.forward = MethodType(gated, module)
    model.train(training)
    return len(norms) + len(gates)


def is_norm(module: nn.Module) -> bool:
    """Whether it is x / √(mean x² + ε) · w, computed in fp32."""
    if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "variance_epsilon"):
        return False
    weight: Tensor = module.weight
    with torch.no_grad():
        x = torch.linspace(-2, 3, weight.numel(), dtype=weight.dtype, device=weight.device)
        factor = torch.linspace(0.5, 2, weight.numel(), dtype=weight.dtype, device=weight.device)
        before = weight.detach().clone()
        weight.copy_(factor)  # ones would not tell w from 1 + w
        same = torch.equal(module(x[None]), root_mean_square(x[None], weight, epsilon(module))[0])
        weight.copy_(before)
    return bool(same)


def epsilon(module: nn.Module) -> float:
    return float(cast(float, module.variance_epsilon))


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """What a replaced norm does when it is called."""
    if module.weight.requires_grad:
        return cast(Tensor, type(module).forward(module, x))
    return cast(Tensor, RootMeanSquare.apply(x, module.weight, epsilon(module)))


def root_mean_square(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The norm, and the fp32 factors that it scales with."""
    exact = x.float()
    factor = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (exact * factor).to(x.dtype), factor


class RootMeanSquare(torch.autograd.Function):  # type: ignore[misc]
    """A norm with a frozen weight. Keeps its input and a number for each token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, factor = root_mean_square(x, weight, epsilon)
        ctx.save_for_backward(x, weight, factor)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor = ctx.saved_tensors
        g = (gradient * weight).float()
        scaled = x.float().mul_(factor)
        along = (g * scaled).mean(-1, keepdim=True)
        return g.sub_(scaled.mul_(along)).mul_(factor).to(x.dtype), None, None


def is_gated(module: nn.Module) -> bool:
    """Whether it is down(silu(gate(x)) · up(x)) and its down layer has a LoRA adapter."""
    from peft.tuners.lora import Linear

    parts: Any = module
    if not all(hasattr(module, name) for name in GATED) or not isinstance(parts.down_proj, Linear):
        return False
    base: Any = parts.down_proj.base_layer
    if type(base) is not nn.Linear or not hasattr(parts.gate_proj, "in_features"):
        return False
    x = torch.linspace(-1, 1, 2 * parts.gate_proj.in_features, device=base.weight.device)
    x = x.view(2, -1).to(base.weight.dtype)
    with torch.no_grad():
        product = silu(parts.gate_proj(x)) * parts.up_proj(x)
        return bool(torch.equal(parts(x), parts.down_proj(product)))


def gated(module: nn.Module, x: Tensor) -> Tensor:
    """What a replaced gated part does when it is called."""
    layer: Any = module.down_proj
    name = plain_adapter(layer, x)
    base = layer.base_layer
    if name is None or base.weight.requires_grad:
        return cast(Tensor, type(module).forward(module, x))
    dtype = computing_dtype(x)
    return cast(
        Tensor,
        GatedDown.apply(
            module.gate_proj(x).to(dtype),
            module.up_proj(x).to(dtype),
            base.weight.to(dtype),
            base.bias,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name],
        ),
    )


class GatedDown(torch.autograd.Function):  # type: ignore[misc]
    """h Wᵀ + b + s (h Aᵀ) Bᵀ of h = silu(gate) · up, W and b frozen. Keeps gate and up, not h."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        with torch.autocast(gate.device.type, enabled=False):
            h = silu(gate).mul_(up)
            y = linear(h, weight, None if bias is None else bias.to(h.dtype))
            down = add_update(y, h, a, b, scale)
        ctx.save_for_backward(gate, up, down, weight, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, down, weight, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        act = silu(gate)
        for_down, for_a, for_b = update_gradients(g, act * up, down, a, b, ctx.scale)
        for_h = (g @ weight).addmm_(for_down, a.to(g.dtype)).view_as(up)
        for_up = act.mul_(for_h)
        for_gate = torch.ops.aten.silu_backward(for_h.mul_(up), gate)
        return for_gate, for_up, None, None, for_a, for_b, None
