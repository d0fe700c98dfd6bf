"""Running the model on rows: logits or losses of learned tokens, greedy answers.

Rows go through the model packed (laid end to end, none seeing another) where its attention allows
it, and padded elsewhere. No caller can tell which from the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.trainers.batches import Batch, pad
from adaptery.trainers.encoding import IGNORED, Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from adaptery.trainers.compute.packing import Packed


@dataclass(frozen=True)
class Forward:
    """How rows are put through a model. `packed` is set once the model was prepared for it."""

    tokenizer: "PreTrainedTokenizerBase"
    packed: bool = False

    @property
    def pad_token(self) -> int:
        """A token to pad with; it is masked, so the end token serves where there is no other."""
        pad_token = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad_token is None else pad_token)

    def token_losses(
        self, model: Any, rows: Sequence[Example]
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Negative log-likelihoods (nats) of the learned tokens, and the row that each is of.

        Both of shape (learned,), rows in order.
        """
        import torch

        if self.packed:
            from adaptery.trainers.compute.losses import token_losses

            return token_losses(model, self._pack(model, rows))
        logits, labels, index = self.learned_logits(model, rows)
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return losses, index

    def learned_logits(
        self, model: Any, rows: Sequence[Example]
    ) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """The logits that learned tokens are predicted by, the tokens, and the rows they are of.

        Of shapes (learned, vocabulary), (learned,) and (learned,), rows in order. Logits are
        computed only where some row has a label: with the vocabulary's size they are the largest
        tensor of a step, and most positions are prompt.
        """
        if self.packed:
            from adaptery.trainers.compute.losses import label_logits

            packed = self._pack(model, rows)
            logits = label_logits(model, packed)
            layout = packed.layout
            return logits, layout.targets.to(logits.device), layout.row.to(logits.device)
        batch = pad([(row.ids, row.labels) for row in rows], self.pad_token)
        labels = batch.labels[:, 1:]
        columns = (labels != IGNORED).any(0).nonzero().flatten()
        logits = self._run(model, batch, logits_to_keep=columns).logits
        kept = labels[:, columns].to(logits.device)
        chosen = kept != IGNORED
        return logits[chosen], kept[chosen], chosen.nonzero()[:, 0]

    def _pack(self, model: Any, rows: Sequence[Example]) -> "Packed":
        from adaptery.trainers.compute.losses import may_share
        from adaptery.trainers.compute.packing import pack as lay_out

        labelled = [(row.ids, row.labels) for row in rows]
        return lay_out(labelled, fill=self.pad_token, share=may_share(model))

    def _run(self, model: Any, batch: Batch, **more: Any) -> Any:
        device = next(model.parameters()).device
        return model(
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            position_ids=batch.positions.to(device),
            use_cache=False,
            **more,
        )

    def greedy_answers(self, model: Any, rows: Sequence[Example], longest: int) -> list[str]:
        """The model's greedy answers to the rows' prompts, of at most `longest` tokens."""
        return self.texts(self.generated(model, rows, longest))

    def generated(self, model: Any, rows: Sequence[Example], longest: int) -> "torch.Tensor":
        """The tokens of those answers, (rows, tokens), padded behind the end token."""
        batch = pad([(row.prompt, row.prompt) for row in rows], self.pad_token)
        device = next(model.parameters()).device
        generated: torch.Tensor = model.generate(
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            max_new_tokens=longest,
            do_sample=False,
            use_cache=True,
            pad_token_id=self.pad_token,
        )
        return generated[:, batch.ids.shape[1] :]

    def texts(self, new: "torch.Tensor") -> list[str]:
        """What generated tokens say."""
        return [t.strip() for t in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
