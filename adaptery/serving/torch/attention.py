"""Attention over a batch of many sequences, laid out one after another in a single row of tokens.

It is registered with transformers' attention interface, so every decoder that uses the interface
runs on it unchanged. What belongs to a step comes as the argument `batch`, which transformers
hands down from the call of the model; there is no global state.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptery.errors import UsageError
from adaptery.serving.torch.batch import Batch, Span
from adaptery.serving.torch.kernels.calls import Kernels

NAME = "adaptery"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: Batch | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Each sequence attends to its own past, which now includes its new tokens.

    Args:
        query: (1, heads, tokens, head size).
        key, value: (1, key-value heads, tokens, head size).

    Returns:
        (1, tokens, heads, head size), and no weights.

    Raises:
        UsageError: the layer asks for a kind of attention that is not computed here.
    """
    if batch is None:
        raise UsageError("its layers do not hand down to attention what belongs to a step")
    if s_aux is not None or position_bias is not None:
        raise UsageError("its attention biases scores or has sinks")
    layer: Any = module.layer_idx
    if batch.kernels is not None and softcap is None and fits(batch.kernels, query, key, value):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        cached, new = batch.cache.of(layer, key[0], value[0]), (key, value)
        asked = batch.pieces, batch.tables, scale, sliding_window
        return batch.kernels.attend(query, new, cached, *asked), None
    batch.cache.write(layer, batch.places, key[0], value[0])
    rows = []
    for span in batch.spans:
        if span.fresh and len(span.starts) == 1:
            keys, values = (t[:, :, span.begin : span.end] for t in (key, value))
        else:
            keys, values = batch.cache.read(layer, span.table)
        rows.append(look(query[0], keys, values, span, scaling, sliding_window, softcap))
    return (rows[0] if len(rows) == 1 else torch.cat(rows))[None], None


def fits(kernels: Kernels, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether that is attention as the kernels compute it."""
    return key.shape == value.shape and {query.dtype, key.dtype, value.dtype} == {kernels.dtype}


def look(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    span: Span,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attention of a span's tokens.

    Args:
        query: (heads, tokens of the batch, head size).
        keys, values: (sequences, key-value heads, tokens, head size).

    Returns:
        (tokens of the span, heads, head size).
    """
    sequences, groups = keys.shape[:2]
    heads, _, size = query.shape
    mine = query[:, span.begin : span.end].view(heads, sequences, span.count, size).transpose(0, 1)
    if span.fresh and sequences == 1 and softcap is None and (window or span.count) >= span.count:
        seen = scaled_dot_product_attention(
            mine, keys, values, is_causal=True, scale=scaling, enable_gqa=heads != groups
        )
        return seen[0].transpose(0, 1)
    mask = span.mask(keys.shape[2], window, mine)
    if span.count == 1:
        # All heads that share a key-value head ask the same keys: ask together, copy nothing.
        mine = mine.reshape(sequences, groups, heads // groups, size)
    seen = dot_product(mine, keys, values, mask, scaling, softcap)
    seen = seen.reshape(sequences, heads, span.count, -1)
    return seen.transpose(1, 2).flatten(0, 1)


def dot_product(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention whose scores are first squeezed to between -`softcap` and `softcap`, if given."""
    shared = query.shape[1] // keys.shape[1]
    if softcap is None:
        return scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=shared > 1
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    keys, values = (t.repeat_interleave(shared, dim=1) for t in (keys, values))
    scores = (query @ keys.transpose(2, 3)) * scale
    scores = (scores / softcap).tanh() * softcap + mask
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ values


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
