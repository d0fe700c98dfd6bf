"""Attention over a batch of many sequences, laid out one after another in a single row of tokens.

It is registered with transformers' attention interface, so every decoder that uses the interface
runs on it unchanged. What belongs to a step comes as the argument `batch`, which transformers
hands down from the call of the model; there is no global state.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptery.errors import UsageError
from adaptery.serving.torch.cache import SlotCache

NAME = "adaptery"


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `begin` to `end` of the batch: tokens of one sequence, from its position `start` on.

    `mask` (tokens, positions) says which positions each token sees; None where simpler rules do.
    """

    begin: int
    end: int
    slot: int
    start: int
    mask: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step and where their keys and values are kept."""

    spans: tuple[Span, ...]
    cache: SlotCache


def causal_mask(tokens: int, start: int, device: torch.device) -> Tensor | None:
    """Who sees whom when `tokens` new ones follow `start` old ones; None if no mask is needed."""
    if tokens == 1 or start == 0:
        return None
    return torch.ones(tokens, start + tokens, dtype=torch.bool, device=device).tril(start)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: Batch,
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
    if sliding_window is not None and sliding_window < batch.cache.context:
        raise UsageError(
            f"its attention window of {sliding_window:,} tokens is shorter than the context of "
            f"{batch.cache.context:,}; give --max-context {sliding_window} or less"
        )
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise UsageError("its attention caps or biases scores, or has sinks")
    layer: Any = module.layer_idx
    rows = []
    for span in batch.spans:
        new = slice(span.begin, span.end)
        keys, values = batch.cache.append(
            layer, span.slot, span.start, key[0, :, new], value[0, :, new]
        )
        rows.append(attend_one(query[:, :, new], keys[None], values[None], span, scaling))
    return torch.cat(rows, dim=2).transpose(1, 2), None


def attend_one(
    query: Tensor, keys: Tensor, values: Tensor, span: Span, scaling: float | None
) -> Tensor:
    """Attention of one sequence's new tokens; shapes as in `attend`."""
    heads, tokens = query.shape[1:3]
    if tokens == 1:
        # All heads that share a key-value head ask the same keys: ask together, copy nothing.
        grouped = query.reshape(1, keys.shape[1], -1, query.shape[3])
        seen = scaled_dot_product_attention(grouped, keys, values, scale=scaling)
        return seen.reshape(1, heads, 1, -1)
    return scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=span.mask,
        is_causal=span.start == 0,
        scale=scaling,
        enable_gqa=heads != keys.shape[1],
    )


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
