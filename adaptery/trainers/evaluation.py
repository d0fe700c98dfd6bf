"""Measuring a model on held-out rows: loss, and metrics of its greedy answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from adaptery.trainers.batches import Batch, by_length, pad
from adaptery.trainers.encoding import IGNORED, Example
from adaptery.trainers.watching import Watcher

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Metric = Callable[[Sequence[str], Sequence[str]], float]
"""A metric takes predictions and references and returns one number."""

MOST_LABELS = 64  # with more distinct answers than this, rows are texts rather than labels


def answers_are_labels(examples: Sequence[Example]) -> bool:
    """Whether the answers look like classes: few distinct ones, each standing for several rows."""
    distinct = {example.answer for example in examples}
    return len(distinct) <= MOST_LABELS and 2 * len(distinct) <= len(examples)


def token_losses(model: "PreTrainedModel | PeftModel", batch: Batch) -> "torch.Tensor":
    """Negative log-likelihoods (nats) of the learned tokens of a batch, shape (learned,).

    Logits are computed only where some row has a label: with the vocabulary's size they are the
    largest tensor of a step, and most positions are prompt.
    """
    import torch

    device = next(model.parameters()).device
    labels = batch.labels[:, 1:]
    columns = (labels != IGNORED).any(0).nonzero().flatten()
    logits = model(
        input_ids=batch.ids.to(device),
        attention_mask=batch.mask.to(device),
        position_ids=batch.positions.to(device),
        logits_to_keep=columns.to(device),
        use_cache=False,
    ).logits
    kept = labels[:, columns].to(device)
    chosen = kept != IGNORED
    return torch.nn.functional.cross_entropy(logits[chosen].float(), kept[chosen], reduction="none")


def evaluate(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    examples: Sequence[Example],
    metrics: Mapping[str, Metric],
    batch_size: int,
    watcher: Watcher,
) -> dict[str, float]:
    """`loss` (nats per learned token), `perplexity`, and each metric of the greedy answers."""
    import torch

    model.eval()
    # One bound for all rows, so that no answer depends on which rows share its batch.
    longest = max(len(row.ids) - len(row.prompt) for row in examples)
    with torch.no_grad():
        losses: list[torch.Tensor] = []
        answers = [""] * len(examples)
        for indices in by_length(examples, batch_size):
            rows = [examples[index] for index in indices]
            losses.append(
                token_losses(model, pad([(r.ids, r.labels) for r in rows], pad_id(tokenizer)))
            )
            if metrics:
                texts = greedy_answers(model, tokenizer, rows, longest)
                for index, text in zip(indices, texts, strict=True):
                    answers[index] = text
            watcher.advance(len(rows))
    model.train()
    loss = torch.cat(losses).mean().item()
    references = [example.answer.strip() for example in examples]
    scores = {name: float(metric(answers, references)) for name, metric in metrics.items()}
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **scores}


def greedy_answers(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Example],
    longest: int,
) -> list[str]:
    """The model's greedy answers to the rows' prompts, of at most `longest` tokens."""
    batch = pad([(row.prompt, row.prompt) for row in rows], pad_id(tokenizer))
    device = next(model.parameters()).device
    generated = model.generate(
        input_ids=batch.ids.to(device),
        attention_mask=batch.mask.to(device),
        max_new_tokens=longest,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad_id(tokenizer),
    )
    new = generated[:, batch.ids.shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """A token to pad with; masked everywhere, so the end token serves where there is no other."""
    pad_token = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad_token is None else pad_token)
