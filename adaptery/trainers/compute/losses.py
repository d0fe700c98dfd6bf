"""What a model makes of packed rows: losses or logits, computed only where something is learned.

With a vocabulary of 150,000 tokens logits are by far the largest tensor of a step. So the output
layer itself turns hidden states into losses, a few positions at a time, and no more logits are ever
in memory than `MOST_BYTES`.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, log_softmax, pad
from torch.utils.checkpoint import checkpoint

from adaptery.trainers.compute.packing import KEPT, Packed

MOST_BYTES = 32 * 2**20  # of fp32 logits
FUSED = "fused_losses"
"""The attribute of a model whose output layer gives losses."""
SHARING = "shares_beginnings"
"""The attribute of a model that may be given what rows share but once."""


def token_losses(model: nn.Module, packed: Packed) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods (nats) of the learned tokens, and the rows that they are in.

    Both of shape (learned,), rows in order. `model` may be wrapped (PEFT, DDP, FSDP).
    """
    packed = packed.to(device_of(model))
    layout = packed.layout
    output = run(model, packed, **({"targets": layout.targets} if fused(model) else {}))
    if output.shape[-1] == 1:
        return output[:, 0], layout.row
    # Also where a wrapper goes past the hook that takes `targets`, as PEFT's AdaLoRA does.
    logits = output[: layout.learned].float()
    return cross_entropy(logits, layout.targets, reduction="none"), layout.row


def label_logits(model: nn.Module, packed: Packed) -> Tensor:
    """The logits that learned tokens are predicted by, (learned, vocabulary), rows in order."""
    packed = packed.to(device_of(model))
    return run(model, packed)[: packed.layout.learned]


def run(model: nn.Module, packed: Packed, **more: Any) -> Tensor:
    """The model's output at the kept positions; (kept, vocabulary)."""
    output = model(
        input_ids=packed.ids,
        position_ids=packed.positions,
        # A mask of four dimensions is taken as it is, so that none of (tokens, tokens) is made.
        attention_mask=packed.ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
        logits_to_keep=packed.layout.kept,
        use_cache=False,
        layout=packed.layout,
        **more,
    )
    return cast(Tensor, output.logits[0])


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def fused(model: nn.Module) -> bool:
    """Whether some model within `model` has an output layer that gives losses."""
    return any(getattr(module, FUSED, False) for module in model.modules())


def may_share(model: nn.Module) -> bool:
    """Whether `pack` may share what rows of this model begin with.

    Not while dropout is active, which is to fall on each row anew.
    """
    modules = list(model.modules())
    dropout = any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in modules)
    return not dropout and any(getattr(module, SHARING, False) for module in modules)


class LossHead:
    """Lets a causal language model's output layer give losses where the call names `targets`.

    The model's `logits` then are losses of shape (1, learned, 1).
    """

    def __init__(self, model: nn.Module, head: nn.Linear) -> None:
        self.targets: Tensor | None = None
        self.head = head
        self.hook = model.register_forward_pre_hook(self.take, with_kwargs=True)
        self.model = model
        setattr(model, FUSED, True)
        head.forward = self.forward

    def remove(self) -> None:
        """Make the model what it was."""
        self.hook.remove()
        del self.head.forward
        delattr(self.model, FUSED)

    def take(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.targets = kwargs.pop("targets", None)
        return args, kwargs

    def forward(self, hidden: Tensor) -> Tensor:
        """Losses of the first positions, as many as there are targets; or logits."""
        targets, self.targets = self.targets, None
        if targets is None:
            return type(self.head).forward(self.head, hidden)
        rows = hidden.flatten(0, -2)[: len(targets)]
        return linear_losses(rows, self.head.weight, self.head.bias, targets)[None, :, None]


def linear_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropies (nats, fp32) of the logits `hidden @ weight.T + bias`.

    Args:
        hidden: (positions, width); weight: (vocabulary, width); targets: (positions,).
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    weight = weight.to(hidden.dtype)
    bias = None if bias is None else bias.to(hidden.dtype)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        parts = [
            checkpoint(plain_losses, hidden[at], weight, bias, targets[at], use_reentrant=False)
            for at in chunks(len(hidden), len(weight))
        ]
        return torch.cat(parts)
    return cast(Tensor, LinearLosses.apply(hidden, weight, bias, targets))


def plain_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return cross_entropy(linear(hidden, weight, bias).float(), targets, reduction="none")


def chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    """So many positions at a time that their fp32 logits take at most `MOST_BYTES`."""
    size = max(KEPT, MOST_BYTES // (4 * vocabulary) // KEPT * KEPT)
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))


class LinearLosses(torch.autograd.Function):  # type: ignore[misc]
    """Losses of a frozen output layer. A position's gradient is computed along with its loss.

    ∂loss/∂hidden = (softmax(logits) - onehot(target)) W needs the logits, which are there but once;
    what the backward pass adds is the factor that each position's loss is multiplied by.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for at in chunks(len(hidden), len(weight)):
                wanted = targets[at, None]
                rows = pad(hidden[at], (0, 0, 0, -len(wanted) % KEPT))
                logits = linear(rows, weight, bias)[: len(wanted)]
                likelihoods = log_softmax(logits, -1, dtype=torch.float32)
                losses[at] = -likelihoods.gather(1, wanted)[:, 0]
                if gradient is not None:
                    error = likelihoods.exp_().scatter_add_(
                        1, wanted, likelihoods.new_full(wanted.shape, -1.0)
                    )
                    gradient[at] = error.to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * factors[:, None]).to(gradient.dtype), None, None, None
