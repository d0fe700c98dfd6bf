"""LoRA+ (arXiv:2402.12354): B learns at a multiple of A's rate."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.lora import Lora, LoraOptions
from adaptery.trainers.optimizers import decay_groups, make_optimizer

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


@hookimpl
def training_methods() -> list[Spec]:
    return [
        Spec(
            "loraplus",
            "LoRA with a higher rate for B than for A (arXiv:2402.12354)",
            lambda: LoraPlus,
        )
    ]


class LoraPlusOptions(LoraOptions):
    ratio: Annotated[float, Field(ge=1)] = Field(16.0, description="B's rate over A's")


class LoraPlus(Lora):
    """LoRA with two learning rates."""

    Options = LoraPlusOptions
    options: LoraPlusOptions
    learning_rate = 5e-5  # of A; B's is the ratio times that

    def optimizer(
        self, model: "PeftModel", rate: float, training: TrainingConfig
    ) -> "torch.optim.Optimizer":
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        fast = [p for name, p in named if ".lora_B." in name]
        others = [p for name, p in named if ".lora_B." not in name]
        faster = [
            {**group, "lr": self.options.ratio * rate} for group in decay_groups(fast, training)
        ]
        return make_optimizer([*decay_groups(others, training), *faster], training, rate)
