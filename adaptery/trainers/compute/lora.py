"""Plain LoRA layers in one operation: y = x Wᵀ + b + s · (x Aᵀ) Bᵀ.

PEFT casts x to fp32 and back around each layer, keeps a copy of it for A, and adds in separate
passes over memory. Here x itself is kept, products add in place, and A and B stay fp32 masters
that are computed with in autocast's dtype.
"""

from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import Linear


def fuse(model: "PeftModel | nn.Module") -> int:
    """Let every plain LoRA layer of `model` compute in one operation; how many there are.

    Layers look at their state at each call, and where it is not plain LoRA (disabled, merged,
    dropout, DoRA, several adapters) they go PEFT's own way, so nothing needs to be undone.
    """
    from peft.import_utils import is_bnb_4bit_available
    from peft.tuners import lora

    kinds = (lora.Linear, lora.Linear4bit) if is_bnb_4bit_available() else (lora.Linear,)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    for layer in layers:
        layer.forward = MethodType(forward, layer)
    return len(layers)


def forward(layer: "Linear", x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a fused layer does when it is called."""
    name = None if args or kwargs else plain_adapter(layer, x)
    if name is None:
        return cast(Tensor, type(layer).forward(layer, x, *args, **kwargs))
    a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    base = layer.base_layer
    dtype = computing_dtype(x)
    if type(base) is nn.Linear and not base.weight.requires_grad:
        return cast(
            Tensor, LowRankLinear.apply(x.to(dtype), base.weight.to(dtype), base.bias, a, b, scale)
        )
    return cast(Tensor, LowRankUpdate.apply(base(x), x.to(dtype), a, b, scale))


def plain_adapter(layer: "Linear", x: Tensor) -> str | None:
    """The adapter that makes this call plain LoRA, if one does."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return None
    if hasattr(layer.lora_A[name].weight, "ds_id"):
        return None  # ZeRO-3 gathers a weight only when the layer that holds it is called
    dropout = layer.lora_dropout[name]
    if dropout.training and getattr(dropout, "p", 0) > 0:
        return None
    mixed = x.dtype != layer.lora_A[name].weight.dtype
    return None if mixed and not torch.is_autocast_enabled(x.device.type) else name


def computing_dtype(x: Tensor) -> torch.dtype:
    """What products are computed in: autocast's choice, or the input's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class LowRankLinear(torch.autograd.Function):  # type: ignore[misc]
    """x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen. Keeps x and x Aᵀ."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = linear(x, weight, None if bias is None else bias.to(x.dtype))
            down = add_update(y, x, a, b, scale)
        ctx.save_for_backward(x, down, weight, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, weight, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        for_down, for_a, for_b = update_gradients(g, x, down, a, b, ctx.scale)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = (g @ weight).addmm_(for_down, a.to(g.dtype)).view_as(x)
        return for_x, None, None, for_a, for_b, None


class LowRankUpdate(torch.autograd.Function):  # type: ignore[misc]
    """y + s (x Aᵀ) Bᵀ, written into y, for base layers of other kinds. Keeps x and x Aᵀ."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = y.to(x.dtype, copy=True)
            down = add_update(y, x, a, b, scale)
        ctx.save_for_backward(x, down, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        for_down, for_a, for_b = update_gradients(g, x, down, a, b, ctx.scale)
        for_x = (for_down @ a.to(g.dtype)).view_as(x) if ctx.needs_input_grad[1] else None
        return gradient, for_x, for_a, for_b, None


def add_update(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Add s (x Aᵀ) Bᵀ to `y` in place; x Aᵀ of shape (tokens, rank)."""
    down = x.reshape(-1, x.shape[-1]) @ a.to(x.dtype).t()
    y.view(-1, y.shape[-1]).addmm_(down, b.to(x.dtype).t(), alpha=scale)
    return down


def update_gradients(
    g: Tensor, x: Tensor, down: Tensor, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x Aᵀ (tokens, rank), A and B, given `g` (tokens, outputs)."""
    for_down = (g @ b.to(g.dtype)).mul_(scale)
    for_a = for_down.t() @ x.reshape(-1, x.shape[-1])
    for_b = (g.t() @ down).mul_(scale)
    return for_down, for_a.to(a.dtype), for_b.to(b.dtype)
