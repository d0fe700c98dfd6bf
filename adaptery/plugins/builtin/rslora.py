"""rsLoRA (arXiv:2312.03732): scaled by alpha/√r, so that high ranks learn as fast as low ones."""

from typing import ClassVar

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.lora import Lora


@hookimpl
def training_methods() -> list[Spec]:
    return [
        Spec(
            "rslora",
            "LoRA whose scale falls with the root of the rank (arXiv:2312.03732)",
            lambda: RsLora,
        )
    ]


class RsLora(Lora):
    """LoRA with the option `rslora`. The larger scale asks for a lower rate."""

    defaults: ClassVar = {"rslora": True}
    learning_rate = 1e-4
