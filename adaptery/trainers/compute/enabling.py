"""Letting a model train on packed rows, if it computes the same on them as on single ones.

Whether it does is tried, on the very model, not looked up in a list of architectures.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaptery.errors import UsageError
from adaptery.trainers.compute.attention import NAME
from adaptery.trainers.compute.losses import LossHead, label_logits, token_losses
from adaptery.trainers.compute.packing import Packed, Row, pack
from adaptery.trainers.compute.shortcut import shorten
from adaptery.trainers.encoding import IGNORED

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

LEARNED = 3  # tokens of each row of the trial
KINDS = ("full_attention", "sliding_attention")


def enable_packing(model: "PreTrainedModel | PeftModel") -> str | None:
    """Prepare a model for packed rows.

    Returns:
        None if `token_losses` and `label_logits` may now be called with it. Else why not; the model
        is as it was, and its rows are to be padded.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    reason = unfit(base)
    if reason:
        return reason
    before = base.config._attn_implementation
    rows = trial_rows(base.config.get_text_config().vocab_size)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return enable(base, before, rows, [alone(base, row) for row in rows])
    finally:
        model.train(training)


def unfit(base: "PreTrainedModel") -> str | None:
    """Why rows of this model cannot be packed, as far as that can be told without trying."""
    config = base.config.get_text_config()
    if "logits_to_keep" not in inspect.signature(base.forward).parameters:
        return "it is no causal language model that computes chosen logits"
    if not base._can_set_attn_implementation():
        return "its attention is not exchangeable"
    kinds = set(getattr(config, "layer_types", None) or KINDS) - set(KINDS)
    if kinds:
        return f"it has layers of the kind {sorted(kinds)[0]}"
    return None


def enable(base: Any, before: str, rows: list[Row], expected: list[Tensor]) -> str | None:
    """Change the model part by part; undo a part that changes what it computes."""
    base.set_attn_implementation(NAME)
    packed = pack(rows).to(base.device)
    wanted = torch.cat(expected)
    reason = differs(base, packed, wanted)
    if reason:
        base.set_attn_implementation(before)
        return reason
    shortcut = shorten(base)
    if shortcut and differs(base, packed, wanted):
        shortcut.remove()
    head = base.get_output_embeddings()
    if type(head) is nn.Linear:
        losses = LossHead(base, head)
        true = cross_entropy(wanted.float(), packed.layout.targets, reduction="none")
        if not alike(token_losses(base, packed)[0], true):
            losses.remove()
    return None


def differs(base: nn.Module, packed: Packed, wanted: Tensor) -> str | None:
    """What goes wrong with packed rows, if anything does."""
    try:
        logits = label_logits(base, packed)
    except (UsageError, TypeError, ValueError, RuntimeError) as error:
        return f"it cannot compute them: {error}"
    if logits.shape != wanted.shape or not alike(logits, wanted):
        return "its tokens see those of other rows"
    return None


def trial_rows(vocabulary: int) -> list[Row]:
    """A few short rows of different lengths, whose last tokens are learned."""
    rows = [[(3 + 7 * n + 13 * i) % vocabulary for i in range(13 + 4 * n)] for n in range(3)]
    return [(ids, [IGNORED] * (len(ids) - LEARNED) + ids[-LEARNED:]) for ids in rows]


def alone(base: Any, row: Row) -> Tensor:
    """The logits of one row by itself that its learned tokens are predicted by."""
    ids = torch.tensor([row[0]], device=base.device)
    logits: Tensor = base(input_ids=ids, use_cache=False).logits[0, -1 - LEARNED : -1]
    return logits


def alike(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding in the arithmetic of the model."""
    tolerance = 1e-3 if other.dtype == torch.float32 and one.dtype == other.dtype else 0.05
    scale = other.float().abs().max().clamp(min=1e-6)
    return bool((one.float() - other.float()).abs().max() <= tolerance * scale)
