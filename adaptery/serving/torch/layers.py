"""The base's linear layers as the engine computes them: together where they share an input.

Layers that get the same tensor (q, k and v; gate and up) become one product. On a CPU the weights
are put once into the order in which that product reads them: our kernels', or oneDNN's, which would
reorder plain weights in every step, and take longer for that than for the product itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.lora import ActiveAdapters

Product = Callable[[Tensor], Tensor]


class Projection:
    """Some linear layers of one input, and what the active adapters add to their outputs."""

    def __init__(
        self,
        layers: dict[str, nn.Linear],
        active: ActiveAdapters,
        kernels: Kernels | None = None,
    ) -> None:
        self.modules = modules = list(layers.values())
        weight = modules[0].weight
        self._sizes = [module.out_features for module in modules]
        self._product = product(modules, kernels)
        self._change = active.layers(layers)
        self._inputs: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        for number, module in enumerate(modules):
            module.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
            module.bias = None
            module.forward = partial(self._output, number)

    def _output(self, number: int, inputs: Tensor) -> Tensor:
        """What the layer `number` makes of (1, tokens, inputs); the others' is kept till asked."""
        if inputs is not self._inputs:
            self._inputs, self._outputs = inputs, self._compute(inputs)
        output = self._outputs[number]
        if number == len(self._sizes) - 1:
            self._inputs, self._outputs = None, ()
        return output

    def _compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.joint(inputs)
        return output.split(self._sizes, dim=-1) if len(self._sizes) > 1 else (output,)

    def joint(self, inputs: Tensor) -> Tensor:
        """The outputs of all layers side by side, (1, tokens, outputs)."""
        output = self._product(inputs)
        self._change(output[0], inputs[0])
        return output


def joined_bias(modules: list[nn.Linear]) -> Tensor | None:
    """(outputs of all,), zero for those that have none; None if no layer has one."""
    if all(module.bias is None for module in modules):
        return None
    zero = modules[0].weight.new_zeros
    return torch.cat([zero(m.out_features) if m.bias is None else m.bias.data for m in modules])


def product(modules: list[nn.Linear], kernels: Kernels | None = None) -> Product:
    """x ↦ W x + b of all side by side, for inputs (…, inputs), as fast as this device does it."""
    weights, bias = [module.weight.data for module in modules], joined_bias(modules)
    if kernels is not None and kernels.multiplies:
        return kernels.product(weights, bias)
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    if not reorders(weight):
        return lambda inputs: linear(inputs, weight, bias)
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    multiply: Any = torch.ops.mkldnn._linear_pointwise.default
    return lambda inputs: multiply(inputs, ordered, bias, "none", [], "")


def reorders(weight: Tensor) -> bool:
    """Whether oneDNN is there and computes in the weight's number format on this processor."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    match weight.dtype:
        case torch.float32:
            return bool(torch.backends.mkldnn.is_available())
        case torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return False


def shared_inputs(
    model: nn.Module, run: Callable[[], object], rows: int
) -> list[dict[str, nn.Linear]]:
    """The linear layers that see each of the `rows` tokens of a batch once, by what they are fed.

    Only they can carry adapters: an expert that sees a selection of tokens cannot be told which
    rows are whose. `run` calls the model on a batch of (1, rows) tokens.
    """
    names = {m: name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    calls: list[tuple[nn.Linear, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, inputs: calls.append((m, inputs[0])))
        for module in names
    ]
    run()
    for hook in hooks:
        hook.remove()
    often = [module for module, _ in calls]
    groups: list[dict[str, nn.Linear]] = []
    before: Tensor | None = None
    for module, inputs in calls:
        if often.count(module) > 1 or inputs.shape[:2] != torch.Size((1, rows)):
            before = None
            continue
        if inputs is before:
            groups[-1][names[module]] = module
        else:
            groups.append({names[module]: module})
        before = inputs
    return groups
