"""Attention within rows that are laid end to end, and none across them.

Registered with transformers' attention interface, so that every decoder that uses the interface
runs on it unchanged. Inside, rows are padded at their right to one length: with causal attention
no token sees padding behind it, so no mask is needed. Without a layout it is transformers' own
SDPA attention, so generation and padded batches are as they always were.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptery.errors import UsageError
from adaptery.trainers.compute.packing import Block, Layout
from adaptery.trainers.compute.row_attention import RowAttention, visible

NAME = "adaptery_rows"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Each row attends to its own past.

    Args:
        query: (1, heads, tokens, head size); with no layout any number of rows.
        key, value: (1, key-value heads, tokens, head size).

    Returns:
        (1, tokens, heads, head size), and no weights. Filling gets zeros.

    Raises:
        UsageError: the layer asks for a kind of attention that is not computed here.
    """
    if layout is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return output
    return attend_rows(module, query, key, value, layout, **options), None


def attend_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Shapes as in `attend`."""
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise UsageError("its attention caps or biases scores, or has sinks")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise UsageError("its attention looks ahead")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window < layout.longest else None
    own = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not dropout
    if own and layout.longest <= RowAttention.LONGEST:
        return RowAttention.of(query, key, value, layout, scale, window)
    outputs: list[Tensor] = []
    seen: list[Tensor] = []
    for block in layout.blocks:
        q, k, v = (padded(tensor, block) for tensor in (query, key, value))
        if seen:  # the rows see what they share
            k, v = (behind(one, other, block) for one, other in zip(seen, (k, v), strict=True))
        outputs.append(laid_out(sdpa(q, k, v, scale, window, dropout), block))
        seen = [k, v]
    filling = query.new_zeros(layout.tokens - layout.filled, *outputs[0].shape[1:])
    return torch.cat([*outputs, filling])[None]


def sdpa(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, dropout: float
) -> Tensor:
    """Causal attention of padded rows; the queries are those of the last keys."""
    width, keys = query.shape[2], key.shape[2]
    plain = window is None and width == keys
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if plain else visible(width, keys, window).to(query.device),
        dropout_p=dropout,
        is_causal=plain,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def padded(tensor: Tensor, block: Block) -> Tensor:
    """(1, heads, tokens, size) → (rows, heads, width, size), zeros behind each row."""
    _, heads, _, size = tensor.shape
    tokens = tensor[0, :, block.begin : block.end].transpose(0, 1)
    if block.slots is not None:
        places = tokens.new_zeros(block.rows * block.width, heads, size)
        tokens = places.index_copy(0, block.slots, tokens)
    return tokens.reshape(block.rows, block.width, heads, size).transpose(1, 2)


def laid_out(tensor: Tensor, block: Block) -> Tensor:
    """(rows, heads, width, size) → (the block's tokens, heads, size)."""
    tokens = tensor.transpose(1, 2).flatten(0, 1)
    return tokens if block.slots is None else tokens.index_select(0, block.slots)


def behind(shared: Tensor, own: Tensor, block: Block) -> Tensor:
    """Shared keys or values, (1, heads, shared, size), before each row's own."""
    return torch.cat([shared.expand(block.rows, -1, -1, -1), own], 2)


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
