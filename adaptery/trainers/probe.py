"""The probe: what base and adapter say to a few fixed prompts, kept in the manifest.

Any engine can ask the same and see whether it applies the adapter. The prompts are ours rather
than the user's rows, because manifests are published. They are asked of the adapter as it was
written, on the base as it is served: a base quantized for training differs from that by more than
a small adapter may change.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from adaptery.base_model import LocalBase
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


def record_probe(base: LocalBase, adapter: Path) -> tuple[ProbePrompt, ...]:
    """The adapted model's `TOP` most likely next tokens for each prompt, and the base's scores."""
    import torch

    model = load_plain(base, adapter)
    probe = []
    with torch.no_grad():
        for question in QUESTIONS:
            ids = prompt_ids(base, question)
            trained = next_token_scores(model, ids)
            with model.disable_adapter():
                alone = next_token_scores(model, ids)
            scores, tokens = trained.topk(TOP)
            top = zip(tokens.tolist(), scores.tolist(), alone[tokens].tolist(), strict=True)
            probe.append(
                ProbePrompt(
                    token_ids=ids,
                    top=tuple(TokenScore(token=t, trained=a, base=b) for t, a, b in top),
                )
            )
    return tuple(probe)


def prompt_ids(base: LocalBase, question: str) -> tuple[int, ...]:
    """A question's tokens: as a chat where the base has a template, else as plain text."""
    tokenizer = base.tokenizer
    if tokenizer.chat_template:
        return Encoder(tokenizer).prompt_ids([{"role": "user", "content": question}])
    return tuple(tokenizer(question)["input_ids"])


def load_plain(base: LocalBase, adapter: Path) -> "PeftModel":
    """The base unquantized, with the adapter, in the number format in which it is served."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        base.directory,
        dtype=torch.bfloat16 if gpu else torch.float32,
        device_map={"": "cuda" if gpu else "cpu"},
    )
    return PeftModel.from_pretrained(model, adapter).eval()


def next_token_scores(model: "PeftModel", ids: tuple[int, ...]) -> "torch.Tensor":
    """Log-probabilities (nats) of the token after `ids`, shape (vocabulary,)."""
    import torch

    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    return logits[0, -1].float().log_softmax(0)
