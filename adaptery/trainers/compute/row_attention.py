"""Attention in bf16 on a CPU, where plain products are faster than a fused kernel.

Query heads that share a key-value head are stacked, so that keys and values are never repeated.
Scores are computed again in the backward pass instead of being kept.
"""

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from adaptery.trainers.compute.packing import Layout


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
        q, k, v = (stacked(tensor, layout, groups) for tensor in (query, key, value))
        weights = attention_weights(q, k, scale, window)
        ctx.save_for_backward(q, k, v)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        ctx.heads = query.shape[1]
        return unstacked(torch.bmm(weights, v), layout, groups, query.shape[1])[None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        layout: Layout = ctx.layout
        groups = k.shape[0] // len(layout.lengths)
        g = stacked(gradient.transpose(1, 2), layout, groups)
        weights = attention_weights(q, k, ctx.scale, ctx.window)
        for_v = torch.bmm(weights.transpose(1, 2), g)
        for_weights = torch.bmm(g, v.transpose(1, 2))
        scores = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        scores.mul_(ctx.scale)
        gradients = (
            unstacked(torch.bmm(scores, k), layout, groups, ctx.heads),
            unstacked(torch.bmm(scores.transpose(1, 2), q), layout, groups, groups),
            unstacked(for_v, layout, groups, groups),
        )
        return *(tensor.transpose(0, 1)[None] for tensor in gradients), None, None, None


def attention_weights(q: Tensor, k: Tensor, scale: float, window: int | None) -> Tensor:
    """Each query's shares of the keys, of the shape of the scores: (batch, queries, keys)."""
    width = k.shape[1]
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
    scores.view(len(q), -1, width, width).add_(bias(width, window, scores.dtype))
    return torch.softmax(scores, -1)


@lru_cache(maxsize=64)
def bias(width: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """0 where a token (row) sees another (column), -∞ elsewhere; (width, width)."""
    hidden = torch.ones(width, width, dtype=torch.bool).triu(1)
    if window is not None:
        hidden |= torch.ones(width, width, dtype=torch.bool).tril(-window)
    return torch.zeros(width, width, dtype=dtype).masked_fill_(hidden, -torch.inf)


def stacked(tensor: Tensor, layout: Layout, groups: int) -> Tensor:
    """(1, heads, tokens, size) → (rows · groups, heads / groups · width, size), padded."""
    _, heads, _, size = tensor.shape
    tokens = tensor[0].transpose(0, 1)
    if not layout.regular:
        room = tokens.new_zeros(len(layout.lengths) * layout.width, heads, size)
        tokens = room.index_copy_(0, layout.slots, tokens[: layout.filled])
    rows = tokens.reshape(-1, layout.width, groups, heads // groups, size)
    return rows.permute(0, 2, 3, 1, 4).reshape(len(rows) * groups, -1, size)


def unstacked(tensor: Tensor, layout: Layout, groups: int, heads: int) -> Tensor:
    """The other way, to (tokens, heads, size), zeros for filling."""
    size = tensor.shape[-1]
    rows = tensor.view(-1, groups, heads // groups, layout.width, size)
    tokens = rows.permute(0, 3, 1, 2, 4).reshape(-1, heads, size)
    if layout.regular:
        return tokens
    room = tokens.new_zeros(layout.tokens, heads, size)
    torch.index_select(tokens, 0, layout.slots, out=room[: layout.filled])
    return room
