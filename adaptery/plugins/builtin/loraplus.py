"""LoRA+ (arXiv:2402.12354): B learns at a multiple of A's rate."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.lora import Lora, LoraOptions

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
        import torch
        from peft.optimizers import create_loraplus_optimizer

        optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
            model,
            torch.optim.AdamW,
            lr=rate,
            loraplus_lr_ratio=self.options.ratio,
            loraplus_weight_decay=training.weight_decay,
        )
        return optimizer
