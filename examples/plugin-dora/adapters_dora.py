"""DoRA (arXiv:2402.09353): weights change in magnitude and direction apart from one another.

ΔW is no product of two small matrices, so this is no plain LoRA: the registry keeps it,
`adapters merge` folds it into the base, and engines that apply LoRA refuse it.
"""

from typing import TYPE_CHECKING

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.method import AdapterPlan, Method

if TYPE_CHECKING:
    from peft import LoraConfig


@hookimpl
def training_methods() -> list[Spec]:
    return [Spec("dora", "LoRA with magnitudes of its own (arXiv:2402.09353)", lambda: Dora)]


class Dora(Method):
    """LoRA for the direction of each weight column, and a learned magnitude for each."""

    learning_rate = 1e-4

    def peft_config(self, plan: AdapterPlan) -> "LoraConfig":
        from peft import LoraConfig

        return LoraConfig(**plan.lora_arguments(), use_dora=True)
