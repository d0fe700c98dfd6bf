"""PiSSA (arXiv:2404.02948): trains the weight's largest singular values beside the frozen rest."""

from typing import ClassVar

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.lora import Lora


@hookimpl
def training_methods() -> list[Spec]:
    return [
        Spec(
            "pissa", "LoRA that starts from principal components (arXiv:2404.02948)", lambda: Pissa
        )
    ]


class Pissa(Lora):
    """LoRA with the option `init=pissa`."""

    defaults: ClassVar = {"init": "pissa"}
    learning_rate = 5e-5
