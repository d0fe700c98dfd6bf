"""QLoRA (arXiv:2305.14314): the frozen base in 4-bit NormalFloat, its constants quantized again."""

from typing import TYPE_CHECKING

from pydantic import Field

from adaptery import hookimpl
from adaptery.config import Config
from adaptery.plugins.specs import Spec
from adaptery.trainers.method import Method

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


@hookimpl
def training_methods() -> list[Spec]:
    return [Spec("qlora", "LoRA on a base held in 4-bit NF4 (arXiv:2305.14314)", lambda: QLora)]


class QLoraOptions(Config):
    double_quantization: bool = Field(True, description="quantize the quantization constants too")


class QLora(Method):
    """Plain LoRA on a base that bitsandbytes holds in NF4, on a GPU or a CPU."""

    Options = QLoraOptions

    def quantization(self) -> "BitsAndBytesConfig":
        import torch
        from transformers import BitsAndBytesConfig

        assert isinstance(self.options, QLoraOptions)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.options.double_quantization,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
