"""The probe: what the trained model says to a few fixed prompts, kept in the manifest.

Any engine can ask the same and see whether it applies the adapter. The prompts are ours rather
than the user's rows, because manifests are published.
"""

from typing import TYPE_CHECKING

from adaptery.trainers.encoding import Encoder
from adaptery.types import ProbePrompt, TokenScore

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

QUESTIONS = (
    "What is this?",
    "a library for reading and writing compressed files",
    "Write one sentence about the weather in spring.",
    "Answer with one word: which is larger, the sun or the moon?",
)
TOP = 5


def record_probe(model: "PeftModel", encoder: Encoder) -> tuple[ProbePrompt, ...]:
    """The trained model's `TOP` most likely next tokens for each prompt, with the base's scores."""
    import torch

    model.eval()
    probe = []
    with torch.no_grad():
        for question in QUESTIONS:
            ids = encoder.prompt_ids([{"role": "user", "content": question}])
            trained = next_token_scores(model, ids)
            with model.disable_adapter():
                base = next_token_scores(model, ids)
            scores, tokens = trained.topk(TOP)
            top = zip(tokens.tolist(), scores.tolist(), base[tokens].tolist(), strict=True)
            probe.append(
                ProbePrompt(
                    token_ids=ids,
                    top=tuple(TokenScore(token=t, trained=a, base=b) for t, a, b in top),
                )
            )
    return tuple(probe)


def next_token_scores(model: "PeftModel", ids: tuple[int, ...]) -> "torch.Tensor":
    """Log-probabilities (nats) of the token after `ids`, shape (vocabulary,)."""
    import torch

    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    return logits[0, -1].float().log_softmax(0)
