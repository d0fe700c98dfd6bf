"""Full fine-tuning: every weight is trained. The yardstick that adapters are measured by."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.method import AdapterPlan, BaseRequest, Method

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@hookimpl
def training_methods() -> list[Spec]:
    return [Spec("full", "every weight; a yardstick, not an adapter", lambda: Full)]


class Full(Method):
    """Trains the base itself. What it makes is a model, so that it cannot be published."""

    learning_rate = 2e-5
    makes_adapter = False

    def load_base(self, wanted: BaseRequest) -> "PreTrainedModel":
        return replace(wanted, dtype=self.base_dtype(wanted.dtype)).load()

    def base_dtype(self, arithmetic: "torch.dtype") -> "torch.dtype":
        """fp32: 16 bits would round most of a small step away. Arithmetic is as configured."""
        import torch

        return torch.float32

    def adapt(self, model: "PreTrainedModel", plan: AdapterPlan) -> Any:
        return model.requires_grad_(True)

    def shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def bake(self, model: Any, directory: Path) -> None:
        """Write a plain model directory."""
        model.save_pretrained(directory)
