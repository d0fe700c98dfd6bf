"""OLoRA (arXiv:2406.01775): A and B start as the first rows and columns of the weight's QR."""

from typing import ClassVar

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.lora import Lora


@hookimpl
def training_methods() -> list[Spec]:
    return [
        Spec(
            "olora", "LoRA that starts from an orthonormal basis (arXiv:2406.01775)", lambda: OLora
        )
    ]


class OLora(Lora):
    """LoRA with the option `init=olora`."""

    defaults: ClassVar = {"init": "olora"}
    learning_rate = 5e-5
