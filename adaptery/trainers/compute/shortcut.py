"""The last layer, computed only where something is learned.

Behind its attention nothing mixes tokens any more, so its feed-forward part may leave out every
token whose output nobody asks for: for short answers to long questions that is nearly all of them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from adaptery.trainers.compute.packing import Layout

FEED_FORWARD = ("mlp", "feed_forward")


class Shortcut:
    """Leaves out tokens in the feed-forward part of `layer` when the layer is called with a layout.

    Positions left out get zeros.
    """

    def __init__(self, layer: nn.Module, part: nn.Module) -> None:
        self.layer, self.part = layer, part
        self.layout: Layout | None = None
        self.hook = layer.register_forward_pre_hook(self.take, with_kwargs=True)
        self.before = vars(part).get("forward")  # a fused one, maybe
        self.whole = part.forward
        part.forward = self.forward

    def remove(self) -> None:
        """Make the layer what it was."""
        self.hook.remove()
        del self.part.forward
        if self.before:
            self.part.forward = self.before

    def take(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.layout = kwargs.get("layout")

    def forward(self, hidden: Tensor) -> Any:
        """`hidden` and result: (1, tokens, width)."""
        layout, self.layout = self.layout, None
        if layout is None or 2 * len(layout.kept) > layout.tokens:
            return self.whole(hidden)
        some = self.whole(hidden.index_select(1, layout.kept))
        return torch.zeros_like(hidden).index_add(1, layout.kept, some.to(hidden.dtype))


def shorten(model: nn.Module) -> Shortcut | None:
    """Shorten the last of the model's layers, if it has such a part."""
    stacks = [m for name, m in model.named_modules() if name.endswith("layers")]
    stacks = [stack for stack in stacks if isinstance(stack, nn.ModuleList) and len(stack)]
    for name in FEED_FORWARD:
        part = getattr(stacks[0][-1], name, None) if len(stacks) == 1 else None
        if isinstance(part, nn.Module):
            return Shortcut(stacks[0][-1], part)
    return None
