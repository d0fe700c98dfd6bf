"""Random models of many families, small enough to try everything on, and rows for them."""

import random
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adaptery.trainers.compute.packing import Row
from adaptery.trainers.encoding import IGNORED

VOCABULARY = 101
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
}


def build(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random causal language model in fp32, ready to answer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SHAPE | changes)))
    return model.float().eval().requires_grad_(False)


def adapted(model: PreTrainedModel, **changes: Any) -> PeftModel:
    """With a LoRA adapter on all linear layers whose A and B are random."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(**options | {"init_lora_weights": False} | changes))


def rows(count: int = 5, seed: int = 0, longest: int = 40, same: int = 0) -> list[Row]:
    """Random rows of many lengths; some tokens in the middle and the last ones are learned.

    The first `same` tokens are those of all rows.
    """
    rng = random.Random(seed)
    beginning = [rng.randrange(3, VOCABULARY) for _ in range(same)]
    made: list[Row] = []
    for _ in range(count):
        own = rng.randrange(max(4, same), longest)
        ids = beginning + [rng.randrange(3, VOCABULARY) for _ in range(own)]
        learned = {len(ids) - 1, len(ids) - 2, len(ids) // 2}
        made.append((ids, [t if n in learned else IGNORED for n, t in enumerate(ids)]))
    return made


def one_by_one(model: torch.nn.Module, data: list[Row]) -> Tensor:
    """Losses of the learned tokens, each row by itself through the plain model."""
    losses = []
    for ids, labels in data:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        targets = torch.tensor(labels[1:])
        kept = targets != IGNORED
        losses.append(cross_entropy(logits[kept].float(), targets[kept], reduction="none"))
    return torch.cat(losses)


def gradients(model: torch.nn.Module, losses: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of the losses, so that every loss has a gradient of its own."""
    model.zero_grad(set_to_none=True)
    (losses * torch.linspace(0.5, 1.5, len(losses))).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
