"""The end of training: an adapter directory that is the same bytes for the same training.

Baking turns whatever a method trained into plain LoRA that every engine can apply, exactly. PEFT
writes sets in hash order, dates in READMEs and its own version; none of that may change a digest.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.types import BaseIdentity

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

CONFIG, WEIGHTS, TEMPLATE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class LowRank:
    """One layer's update: ΔW = B A, A of shape (rank, inputs) and B of shape (outputs, rank)."""

    a: "torch.Tensor"
    b: "torch.Tensor"


def write_lora(layers: dict[str, LowRank], directory: Path) -> None:
    """Write updates of any rank per layer, by full module name, as a PEFT LoRA adapter.

    Scaling is already in the factors, so every layer's alpha is its rank. Layers of rank 0 change
    nothing and are left out.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    layers = {name: layer for name, layer in layers.items() if layer.a.shape[0]}
    ranks = {name: layer.a.shape[0] for name, layer in layers.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=sorted(layers),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.b.contiguous()
    config.save_pretrained(directory)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def settle(directory: Path, base: BaseIdentity, template: str | None) -> None:
    """Make what was baked reproducible, add the chat template, drop what is no part of it."""
    path = directory / CONFIG
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.id
    config["revision"] = base.revision
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if template:
        (directory / TEMPLATE).write_text(template, encoding="utf-8")
    for other in directory.iterdir():
        if other.name not in (CONFIG, WEIGHTS, TEMPLATE):
            other.unlink()


def trainable_parameters(model: "PeftModel") -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
