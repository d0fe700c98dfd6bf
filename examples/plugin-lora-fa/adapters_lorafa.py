"""LoRA-FA (arXiv:2308.03303): A stays as it started, B alone is trained.

Half the gradients and optimizer states of LoRA, and no input of A to be kept for its gradient. What
it makes is plain LoRA, which every engine applies.
"""

from typing import TYPE_CHECKING, Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.method import AdapterPlan, Method

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@hookimpl
def training_methods() -> list[Spec]:
    return [Spec("lorafa", "LoRA whose A is frozen (arXiv:2308.03303)", lambda: LoraFa)]


class LoraFa(Method):
    """LoRA that keeps its random A."""

    learning_rate = 4e-4  # B learns alone

    def adapt(self, model: "PreTrainedModel", plan: AdapterPlan) -> "PeftModel":
        adapted = super().adapt(model, plan)
        for a in down_projections(adapted).values():
            a.requires_grad_(False)
        return adapted

    def state(self, model: "PeftModel") -> dict[str, Any]:
        """A, because checkpoints keep only what is trained."""
        return {name: a.detach() for name, a in down_projections(model).items()}

    def restore(self, model: "PeftModel", state: dict[str, Any]) -> None:
        for name, a in down_projections(model).items():
            a.data.copy_(state[name])


def down_projections(model: "PeftModel") -> dict[str, "torch.Tensor"]:
    """A of every adapted layer, by name."""
    return {name: value for name, value in model.named_parameters() if ".lora_A." in name}
