"""Parts of transformers' decoders that the kernels can compute instead, and do if they agree.

What a module computes is not told by its name: so each is tried on random numbers before it is
replaced, and left alone if a kernel gives anything else.
"""

import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.layers import Projection

ROTARY = "apply_rotary_pos_emb"
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}
TOKENS, SIZE = 3, 8  # of what is tried


def gated_parts(model: nn.Module) -> dict[nn.Module, str]:
    """The modules that compute down(activation(gate(x)) · up(x)), with that activation.

    To be called before their layers are computed together.
    """
    found = {module: activation_of(module) for module in model.modules() if is_gated(module)}
    return {module: activation for module, activation in found.items() if activation}


def is_gated(module: nn.Module) -> bool:
    parts = (getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj"))
    return all(isinstance(part, nn.Linear) for part in parts)


def activation_of(module: Any) -> str | None:
    """Which of the formulas it is: told in float32, where they differ by more than rounding."""
    gate, up, down = module.gate_proj, module.up_proj, module.down_proj
    x, numbers = torch.randn(1, TOKENS, gate.in_features).to(gate.weight), torch.linspace(-9, 9, 99)

    def by(formula: Callable[[Tensor], Tensor]) -> Tensor:
        result: Tensor = down(formula(gate(x)) * up(x))
        return result

    fitting = (
        name
        for name, formula in FORMULAS.items()
        if agree(lambda: module.act_fn(numbers), partial(formula, numbers))
        and agree(partial(module, x), partial(by, formula))
    )
    return next(fitting, None)


def replace_modules(
    model: nn.Module,
    kernels: Kernels,
    projections: Sequence[Projection],
    gated: dict[nn.Module, str],
) -> None:
    """Let the kernels compute whatever of the model they can."""
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            replace_norm(module, kernels)
        if module in gated:
            replace_gated(module, kernels, projections, gated[module])
        replace_rotary(module, kernels)


def replace_norm(module: Any, kernels: Kernels) -> None:
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = getattr(module, "weight", None)
    if not isinstance(epsilon, float) or weight is None or weight.dtype != kernels.dtype:
        return
    x = torch.randn(1, TOKENS, *weight.shape, dtype=weight.dtype) * 3
    own = module.forward
    if agree(lambda: own(x), lambda: kernels.rms_norm(x, weight, epsilon)):
        module.forward = lambda x: (
            kernels.rms_norm(x, weight, epsilon) if x.dtype == kernels.dtype else own(x)
        )


def replace_gated(
    module: Any, kernels: Kernels, projections: Sequence[Projection], activation: str
) -> None:
    both, down = [module.gate_proj, module.up_proj], module.down_proj
    joint = next((p.joint for p in projections if p.modules == both), None)
    if joint is not None:
        module.forward = lambda x: down(kernels.gated(joint(x), activation))


def replace_rotary(module: Any, kernels: Kernels) -> None:
    """Give a module that turns queries and keys by their position another function to do that."""
    own: Any = getattr(type(module), "forward", None)
    names = getattr(own, "__globals__", {})
    uses = ROTARY in getattr(getattr(own, "__code__", None), "co_names", ())
    if not uses or ROTARY not in names:
        return
    original = names[ROTARY]

    def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **options: Any) -> Any:
        whole = q.shape[-1] == k.shape[-1] == cos.shape[-1] and len(q) == 1
        if more or options or not whole or {t.dtype for t in (q, k, cos, sin)} != {kernels.dtype}:
            return original(q, k, cos, sin, *more, **options)
        return kernels.rotate(q, cos, sin), kernels.rotate(k, cos, sin)

    if agree(partial(tried, original, kernels), partial(tried, turned, kernels)):
        changed = types.FunctionType(
            own.__code__, {**names, ROTARY: turned}, own.__name__, own.__defaults__, own.__closure__
        )
        changed.__kwdefaults__ = own.__kwdefaults__
        module.forward = types.MethodType(changed, module)


def tried(function: Callable[..., tuple[Tensor, Tensor]], kernels: Kernels) -> Tensor:
    """Queries and keys of 2 and 3 heads, (1, 5, tokens, size), always the same, turned."""
    numbers = torch.linspace(-3, 3, 5 * TOKENS * SIZE).sin_().to(kernels.dtype)
    query, key = numbers.view(1, TOKENS, 5, SIZE).transpose(1, 2).split((2, 3), dim=1)
    angles = torch.linspace(0, 2, TOKENS * SIZE).view(1, TOKENS, SIZE)
    cosine, sine = angles.cos().to(kernels.dtype), angles.sin().to(kernels.dtype)
    return torch.cat(function(query, key, cosine, sine), dim=1)


def agree(own: Callable[[], Tensor], ours: Callable[[], Tensor]) -> bool:
    """Whether two ways to compute differ by no more than rounding."""
    with torch.inference_mode():
        try:
            expected, found = own(), ours()
        except (TypeError, ValueError, AttributeError, RuntimeError):
            return False
        if expected.shape != found.shape or expected.dtype != found.dtype:
            return False
        rounding = 4 * torch.finfo(expected.dtype).eps
        scale = expected.float().abs().max()
        return bool(((expected.float() - found.float()).abs() <= rounding * scale).all())
