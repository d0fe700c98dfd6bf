"""DoRA (arXiv:2402.09353): weights change in magnitude and direction apart from one another."""

from typing import ClassVar

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.lora import Lora


@hookimpl
def training_methods() -> list[Spec]:
    return [
        Spec(
            "dora",
            "LoRA with magnitudes of its own; merged to serve (arXiv:2402.09353)",
            lambda: Dora,
        )
    ]


class Dora(Lora):
    """LoRA with the option `dora`. What it makes can be merged, but is not plain LoRA."""

    defaults: ClassVar = {"dora": True}
    learning_rate = 1e-4
