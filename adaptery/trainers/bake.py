"""The end of training: an adapter directory that is the same bytes for the same training.

Baking turns whatever a method trained into plain LoRA that every engine can apply, exactly. PEFT
writes sets in hash order, dates in READMEs and its own version; none of that may change a digest.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.types import BaseIdentity

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

CONFIG, WEIGHTS, TEMPLATE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
)
PREFIX = "base_model.model."  # PEFT's, before the names of the base's modules


@dataclass(frozen=True)
class LowRank:
    """One layer's update: ΔW = B A, A of shape (rank, inputs) and B of shape (outputs, rank)."""

    a: "torch.Tensor"
    b: "torch.Tensor"


def write_adapter(
    config: "PeftConfig", tensors: Mapping[str, "torch.Tensor"], directory: Path
) -> None:
    """Write tensors under their names in PEFT's files, with a configuration that says no more."""
    from safetensors.torch import save_file

    config = copy.copy(config)
    config.inference_mode = True
    # PEFT lists the heads that some model may have; here stand those that this one has.
    heads = getattr(config, "modules_to_save", None) or ()
    there = [head for head in heads if any(f".{head}." in name for name in tensors)]
    config.modules_to_save = there or None
    config.save_pretrained(directory)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(plain, directory / WEIGHTS, metadata={"format": "pt"})


def write_lora(
    layers: dict[str, LowRank],
    directory: Path,
    *,
    task_type: str = "CAUSAL_LM",
    heads: Sequence[str] = (),
    head_tensors: Mapping[str, "torch.Tensor"] | None = None,
) -> None:
    """Write updates of any rank per layer, by full module name, as a PEFT LoRA adapter.

    Scaling is already in the factors, so every layer's alpha is its rank. Layers of rank 0 change
    nothing and are left out. `heads` are modules that were trained whole, with their tensors.
    """
    from peft import LoraConfig

    layers = {name: layer for name, layer in layers.items() if layer.a.shape[0]}
    ranks = {name: layer.a.shape[0] for name, layer in layers.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=sorted(layers),
        task_type=task_type,
        modules_to_save=list(heads) or None,
    )
    tensors = dict(head_tensors or {})
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.a
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.b
    write_adapter(config, tensors, directory)


def head_tensors(model: "PeftModel") -> dict[str, "torch.Tensor"]:
    """The tensors of the modules that were trained whole, named as PEFT saves them."""
    from peft.utils import ModulesToSaveWrapper

    return {
        f"{PREFIX}{name}.{parameter}": value
        for name, module in model.base_model.model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
        for parameter, value in module.modules_to_save["default"].state_dict().items()
    }


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
