"""LoRA (arXiv:2106.09685): what every other method starts from."""

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.lora import Lora


@hookimpl
def training_methods() -> list[Spec]:
    return [Spec("lora", "low-rank updates of frozen weights (arXiv:2106.09685)", lambda: Lora)]
