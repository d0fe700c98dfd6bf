"""Attention in bf16 on a CPU, where plain products are faster than a fused kernel.

Query heads that share a key-value head are stacked, so that keys and values are never repeated.
Scores are computed again in the backward pass instead of being kept.
"""

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from adaptery.trainers.compute.packing import Block, Layout


class RowAttention(torch.autograd.Function):  # type: ignore[misc]
    """softmax(s · Q Kᵀ + bias) V for each row and head, causal; the gradient is exact."""

    LONGEST = 1024
    """Scores grow with the square of a row's length; longer rows are SDPA's."""

    @staticmethod
    def of(
        query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
    ) -> Tensor:
        """(1, heads, tokens, size), twice (1, key-value heads, …) → (1, tokens, heads, size)."""
        return cast(Tensor, RowAttention.apply(query, key, value, layout, scale, window))

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        scale: float,
        window: int | None,
    ) -> Tensor:
        groups = key.shape[1]
        output = room(query, layout)
        kept: list[Tensor] = []
        for block in layout.blocks:
            q, k, v = (stacked(tensor, block, groups) for tensor in (query, key, value))
            if kept:  # the rows see what they share
                k, v = (
                    behind(one, other, block) for one, other in zip(kept[1:], (k, v), strict=True)
                )
            put(output, attention_weights(q, k, block.width, scale, window) @ v, block, groups)
            kept += (q, k, v)
        ctx.save_for_backward(*kept)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return output[None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        saved = ctx.saved_tensors  # once: with gradient checkpointing they are made again here
        groups = saved[1].shape[0] // layout.blocks[0].rows
        upstream = gradient.transpose(1, 2)
        for_query = room(upstream, layout)
        for_key, for_value = (room(upstream[:, :groups], layout) for _ in range(2))
        seen: list[Tensor] = []  # the gradients of shared keys and values from the rows
        for number, block in reversed(list(enumerate(layout.blocks))):
            q, k, v = saved[3 * number : 3 * number + 3]
            g = stacked(upstream, block, groups)
            for_q, for_k, for_v = attention_gradients(g, q, k, v, block, ctx.scale, ctx.window)
            if number:
                before = k.shape[1] - block.width
                seen = [
                    t[:, :before].unflatten(0, (-1, groups)).sum(0, dtype=torch.float32).to(t.dtype)
                    for t in (for_k, for_v)
                ]
                for_k, for_v = (t[:, before:] for t in (for_k, for_v))
            elif seen:
                for_k, for_v = (t + other for t, other in zip((for_k, for_v), seen, strict=True))
            put(for_query, for_q, block, groups)
            put(for_key, for_k, block, groups)
            put(for_value, for_v, block, groups)
        gradients = (for_query, for_key, for_value)
        return *(tensor.transpose(0, 1)[None] for tensor in gradients), None, None, None


def attention_gradients(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, block: Block, scale: float, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, given that of the output."""
    weights = attention_weights(q, k, block.width, scale, window)
    for_v = weights.transpose(1, 2) @ g
    for_weights = g @ v.transpose(1, 2)
    scores = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype).mul_(scale)
    return scores @ k, scores.transpose(1, 2) @ q, for_v


def attention_weights(q: Tensor, k: Tensor, width: int, scale: float, window: int | None) -> Tensor:
    """Each query's shares of the keys, of the shape of the scores: (batch, queries, keys)."""
    scores = (q @ k.transpose(1, 2)).mul_(scale)
    keys = k.shape[1]
    scores.view(len(q), -1, width, keys).add_(bias(width, keys, window, scores.dtype))
    return torch.softmax(scores, -1)


@lru_cache(maxsize=64)
def bias(width: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """0 where a token (row) sees another (column), -∞ elsewhere; (width, keys)."""
    hidden = visible(width, keys, window).logical_not_()
    return torch.zeros(width, keys, dtype=dtype).masked_fill_(hidden, -torch.inf)


def visible(width: int, keys: int, window: int | None) -> Tensor:
    """Who sees whom, (width, keys): the last `width` of `keys` tokens see all up to themselves.

    With a `window` they see only so many of those, themselves included.
    """
    seen = torch.ones(width, keys, dtype=torch.bool).tril_(keys - width)
    return seen if window is None else seen.triu_(keys - width - window + 1)


def stacked(tensor: Tensor, block: Block, groups: int) -> Tensor:
    """(1, heads, tokens, size) → (rows · groups, heads / groups · width, size), padded."""
    _, heads, _, size = tensor.shape
    tokens = tensor[0, :, block.begin : block.end].transpose(0, 1)
    if block.slots is not None:
        padded = tokens.new_zeros(block.rows * block.width, heads, size)
        tokens = padded.index_copy_(0, block.slots, tokens)
    rows = tokens.reshape(block.rows, block.width, groups, heads // groups, size)
    return rows.permute(0, 2, 3, 1, 4).reshape(block.rows * groups, -1, size)


def put(output: Tensor, tensor: Tensor, block: Block, groups: int) -> None:
    """The other way, into the block's place in `output`, (tokens, heads, size)."""
    _, heads, size = output.shape
    rows = tensor.unflatten(1, (heads // groups, block.width)).unflatten(0, (block.rows, groups))
    tokens = rows.permute(0, 3, 1, 2, 4)
    place = output[block.begin : block.end]
    if block.slots is None:
        place.view(tokens.shape).copy_(tokens)
    else:
        torch.index_select(tokens.reshape(-1, heads, size), 0, block.slots, out=place)


def behind(shared: Tensor, own: Tensor, block: Block) -> Tensor:
    """Shared keys or values, (groups, shared, size), before each row's own."""
    return torch.cat([shared.repeat(block.rows, 1, 1), own], 1)


def room(tensor: Tensor, layout: Layout) -> Tensor:
    """Where (1, heads, tokens, size) is to be put as (tokens, heads, size), zeros for filling."""
    made = tensor.new_empty(layout.tokens, tensor.shape[1], tensor.shape[3])
    made[layout.filled :].zero_()
    return made
