"""Letting a model train on packed rows, if it computes the same on them as on single ones.

Whether it does is tried, on the very model, not looked up in a list of architectures.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaptery.errors import UsageError
from adaptery.trainers.compute.attention import NAME
from adaptery.trainers.compute.losses import SHARING, LossHead, label_logits, token_losses
from adaptery.trainers.compute.packing import SHARED, Packed, Row, pack
from adaptery.trainers.compute.shortcut import shorten
from adaptery.trainers.encoding import IGNORED

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

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
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return enable(base)
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


def enable(base: Any) -> str | None:
    """Change the model part by part; undo a part that changes what it computes."""
    before = base.config._attn_implementation
    vocabulary = base.config.get_text_config().vocab_size
    every, last = Trial.of(base, trial_rows(vocabulary)), Trial.of(base, trial_rows(vocabulary, 3))
    base.set_attn_implementation(NAME)
    reason = every.failure(base)
    if reason:
        base.set_attn_implementation(before)
        return reason
    shortcut = shorten(base)
    if shortcut and last.failure(base):
        shortcut.remove()
    head = base.get_output_embeddings()
    if type(head) is nn.Linear:
        fused = LossHead(base, head)
        if not every.same_losses(base):
            fused.remove()
    config = base.config.get_text_config()
    # On a GPU the shared tokens would need a mask, and with it slower attention.
    if base.device.type == "cpu" and not getattr(config, "attention_dropout", 0.0):
        alike_rows = Trial.of(base, trial_rows(vocabulary, 3, [5] * 2 * SHARED), share=True)
        setattr(base, SHARING, alike_rows.failure(base) is None)
    return None


@dataclass(frozen=True)
class Trial:
    """Packed rows and the logits, (learned, vocabulary), that the plain model gives each alone."""

    packed: Packed
    wanted: Tensor

    @classmethod
    def of(cls, base: Any, rows: list[Row], share: bool = False) -> "Trial":
        packed = pack(rows, share=share).to(base.device)
        return cls(packed, torch.cat([alone(base, row) for row in rows]))

    def failure(self, base: nn.Module) -> str | None:
        """What goes wrong with packed rows, if anything does."""
        try:
            logits = label_logits(base, self.packed)
        except (UsageError, TypeError, ValueError, RuntimeError, IndexError) as error:
            return f"it cannot compute them: {error}"
        if logits.shape != self.wanted.shape or not alike(logits, self.wanted):
            return "its tokens see those of other rows"
        return None

    def same_losses(self, base: nn.Module) -> bool:
        """Whether the model's losses are the cross-entropies of those logits."""
        targets = self.packed.layout.targets
        true = cross_entropy(self.wanted.float(), targets, reduction="none")
        return alike(token_losses(base, self.packed)[0], true)


def trial_rows(
    vocabulary: int, learned: int | None = None, beginning: Sequence[int] = ()
) -> list[Row]:
    """A few short rows of different lengths, whose last tokens are learned; or all of them."""
    lengths = (13, 17, 21)
    rows = [
        [*beginning, *((3 + 7 * n + 13 * i) % vocabulary for i in range(length))]
        for n, length in enumerate(lengths)
    ]
    made: list[Row] = []
    for ids in rows:
        start = len(ids) - (learned or len(ids))
        made.append((ids, [IGNORED] * start + ids[start:]))
    return made


def alone(base: Any, row: Row) -> Tensor:
    """The logits of one row by itself that its learned tokens are predicted by."""
    ids = torch.tensor([row[0]], device=base.device)
    logits: Tensor = base(input_ids=ids, use_cache=False).logits[0, :-1]
    return logits[[label != IGNORED for label in row[1][1:]]]


def alike(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding in the arithmetic of the model."""
    tolerance = 1e-3 if other.dtype == torch.float32 and one.dtype == other.dtype else 0.05
    scale = other.float().abs().max().clamp(min=1e-6)
    return bool((one.float() - other.float()).abs().max() <= tolerance * scale)
