"""Starts of LoRA that take a part B₀A₀ out of the weight itself: PiSSA and OLoRA.

The residual weight is W − s B₀A₀, so that the model answers as before until it is trained. PEFT
computes the same, but rounds A₀ and B₀ to the base's number format after taking them out exactly.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from adaptery.errors import ConfigError
from adaptery.trainers.bake import LowRank

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"  # PEFT's name of the only adapter of a model


def pissa(weight: "torch.Tensor", rank: int, scale: float) -> LowRank:
    """The largest singular values with their vectors, so that s B A is the best part of its rank.

    `weight` has the shape (outputs, inputs). (arXiv:2404.02948)
    """
    import torch

    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    return LowRank(a=root[:, None] * v[:rank], b=u[:, :rank] * root)


def olora(weight: "torch.Tensor", rank: int, scale: float) -> LowRank:
    """B has orthonormal columns, the first of Q in W = QR, and A is R's first rows.

    `weight` has the shape (outputs, inputs). (arXiv:2406.01775)
    """
    import torch

    q, r = torch.linalg.qr(weight)
    return LowRank(a=r[:rank].contiguous(), b=q[:, :rank].contiguous())


STARTS: dict[str, Callable[["torch.Tensor", int, float], LowRank]] = {
    "pissa": pissa,
    "olora": olora,
}


def take_out(layer: "LoraLayer", name: str, init: str) -> LowRank | None:
    """Start the layer's A and B as a part of its weight, and leave the rest in the weight.

    Returns:
        The start, to be kept; none for the outline of a model, which has no weights.

    Raises:
        ConfigError: the weight has not so many parts.
    """
    weight = weight_of(layer)
    rank, scale = layer.r[ADAPTER], layer.scaling[ADAPTER]
    if rank > min(weight.shape):
        raise ConfigError(
            f"lora.r is {rank}, but {name} has a weight of {weight.shape[0]} × {weight.shape[1]}, "
            f"of which {init} can take {min(weight.shape)} parts at most. Lower lora.r, or name "
            "larger layers with lora.targets."
        )
    if weight.is_meta:
        return None
    start = STARTS[init](weight.float(), rank, scale)
    change(weight, start, -scale)
    put_in(layer, start)
    return start


def exchange(layer: "LoraLayer", made: LowRank, wanted: LowRank) -> None:
    """Let the residual weight be what it was for another start; for one that was made elsewhere.

    The same start needs nothing, and so changes no bit.
    """
    import torch

    wanted = LowRank(wanted.a.to(made.a.device), wanted.b.to(made.b.device))
    if torch.equal(made.a, wanted.a) and torch.equal(made.b, wanted.b):
        return
    change(weight_of(layer), made, layer.scaling[ADAPTER])
    change(weight_of(layer), wanted, -layer.scaling[ADAPTER])


def put_in(layer: "LoraLayer", start: LowRank) -> None:
    """Give the layer a copy of these A and B."""
    import torch

    for side, value in ((layer.lora_A, start.a), (layer.lora_B, start.b)):
        side[ADAPTER].weight = torch.nn.Parameter(value.detach().clone())


def change(weight: "torch.Tensor", update: LowRank, scale: float) -> None:
    """Add `scale` B A to the weight in place, computed in fp32."""
    weight.copy_(weight.float() + scale * (update.b.float() @ update.a.float()))


def weight_of(layer: "LoraLayer") -> "torch.Tensor":
    """The base's weight as a view of the shape (outputs, inputs), whichever way it is kept."""
    weight: torch.Tensor = layer.get_base_layer().weight.data
    return weight.T if layer.fan_in_fan_out else weight
