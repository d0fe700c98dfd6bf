"""LoRA with PEFT's own switches, and how what they train is written as plain LoRA.

- rsLoRA (arXiv:2312.03732) scales by alpha/√r. Some engines read alpha and r alone, so that the
  scaling is folded into alpha.
- DoRA (arXiv:2402.09353) learns magnitudes beside directions. That is no low-rank update of the
  weight: it stays what it is, and its configuration says so.
- PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) start from a part s B₀A₀ of the weight and
  train beside the rest of it. The base that is served still has that part, so that the update is
  s (BA − B₀A₀): plain LoRA of twice the rank.
"""

import copy
from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from adaptery.config import Config
from adaptery.trainers.bake import PREFIX, LowRank, write_adapter
from adaptery.trainers.method import AdapterPlan, Method
from adaptery.trainers.principal import ADAPTER, STARTS, exchange, take_out

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel


class LoraOptions(Config):
    rslora: bool = Field(False, description="scale by alpha/√r instead of alpha/r")
    dora: bool = Field(False, description="learn magnitudes too; that cannot become plain LoRA")
    init: Literal["default", "gaussian", "pissa", "olora"] = Field(
        "default", description="start of A and B; pissa and olora start from the weight itself"
    )


class Lora(Method):
    """LoRA with switches as options. The named variants differ from it in their defaults."""

    Options = LoraOptions
    options: LoraOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.start: dict[str, LowRank] = {}
        """What was taken out of the base, by module; empty where nothing is."""

    def peft_config(self, plan: AdapterPlan) -> "LoraConfig":
        from peft import LoraConfig

        return LoraConfig(
            **plan.lora_arguments(),
            use_rslora=self.options.rslora,
            use_dora=self.options.dora,
            init_lora_weights="gaussian" if self.options.init == "gaussian" else True,
        )

    def adapt(self, model: "PreTrainedModel", plan: AdapterPlan) -> "PeftModel":
        adapted = super().adapt(model, plan)
        if self.options.init in STARTS:
            found = {
                name: take_out(layer, name, self.options.init)
                for name, layer in lora_layers(adapted)
            }
            self.start = {name: start for name, start in found.items() if start}
        return adapted

    def state(self, model: "PeftModel") -> dict[str, Any]:
        return {"start": {name: [start.a, start.b] for name, start in self.start.items()}}

    def restore(self, model: "PeftModel", state: dict[str, Any]) -> None:
        for name, layer in lora_layers(model):
            if name in self.start:
                wanted = LowRank(*state["start"][name])
                exchange(layer, self.start[name], wanted)
                self.start[name] = wanted

    def shapes(self, model: "PeftModel") -> dict[str, tuple[int, ...]]:
        shapes = super().shapes(model)
        if self.options.init not in STARTS:
            return shapes
        return {name: twice_the_rank(name, shape) for name, shape in shapes.items()}

    def bake(self, model: "PeftModel", directory: Path) -> None:
        from peft import get_peft_model_state_dict

        config = copy.copy(model.peft_config[ADAPTER])
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        if config.use_rslora:
            config.use_rslora = False
            config.lora_alpha *= sqrt(config.r)
        if self.start:
            config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
            for name, start in self.start.items():
                subtract(tensors, f"{PREFIX}{name}", start)
        write_adapter(config, tensors, directory)


def subtract(tensors: dict[str, Any], module: str, start: LowRank) -> None:
    """BA − B₀A₀ as one product of twice the rank."""
    import torch

    a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
    tensors[a] = torch.cat([tensors[a], start.a.to(tensors[a].device)])
    tensors[b] = torch.cat([tensors[b], -start.b.to(tensors[b].device)], dim=1)


def twice_the_rank(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of A or B when the start is subtracted from them."""
    if name.endswith(".lora_A.weight"):
        return (2 * shape[0], *shape[1:])
    return (shape[0], 2 * shape[1]) if name.endswith(".lora_B.weight") else shape


def lora_layers(model: "PeftModel") -> "Iterator[tuple[str, LoraLayer]]":
    """The adapted layers with their names in the base."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module
