"""QLoRA (arXiv:2305.14314): the frozen base in 4-bit NormalFloat, its constants quantized again."""

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from adaptery import hookimpl
from adaptery.plugins.specs import Spec
from adaptery.trainers.lora import Lora, LoraOptions
from adaptery.trainers.method import BaseRequest
from adaptery.trainers.principal import STARTS
from adaptery.trainers.targets import head_modules, linear_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@hookimpl
def training_methods() -> list[Spec]:
    return [Spec("qlora", "LoRA on a base held in 4-bit NF4 (arXiv:2305.14314)", lambda: QLora)]


class QLoraOptions(LoraOptions):
    double_quantization: bool = Field(True, description="quantize the quantization constants too")

    @field_validator("init")
    @classmethod
    def _leaves_the_base(cls, init: str) -> str:
        if init in STARTS:
            raise ValueError(
                f"{init} takes a part out of the base's weights, and what is left would be rounded "
                f"to 4 bits a second time. Use --method {init}, or init=default or gaussian"
            )
        return init


class QLora(Lora):
    """LoRA on a base that bitsandbytes holds in NF4, on a GPU or a CPU."""

    Options = QLoraOptions
    options: QLoraOptions

    def load_base(self, wanted: BaseRequest) -> "PreTrainedModel":
        from bitsandbytes.nn import Linear4bit
        from peft import prepare_model_for_kbit_training

        model = self.load_quantized(wanted)
        heads = head_modules(model) if wanted.labels else ()
        if any(isinstance(model.get_submodule(head), Linear4bit) for head in heads):
            model = self.load_quantized(wanted, heads)  # 4 bits cannot be trained
        for module in model.modules():
            if isinstance(module, Linear4bit):
                # The first evaluation on a CPU would repack the weights for a kernel through which
                # no gradient flows, and training would go on without the layers below.
                module.support_avx512bf16_for_cpu = False
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)

    def outlined(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """PEFT makes all that is not quantized fp32, and so what flows between the layers."""
        inside = {f"{layer.name}.weight" for layer in linear_layers(model)}
        for name, parameter in model.named_parameters():
            if name not in inside:
                parameter.data = parameter.data.float()
        return model

    def base_bytes(self, model: "PreTrainedModel") -> int:
        """Linear layers of the blocks in 4 bits with a constant for each 64 numbers, which double
        quantization holds in a byte; the rest in fp32. One layer is made 16-bit to compute with,
        and on a CPU the 16-bit weights that were quantized stay in the heap."""
        import torch

        layers = [int(layer.outputs * layer.inputs) for layer in linear_layers(model)]
        constant = (1 + 4 / 256) if self.options.double_quantization else 4
        rest = sum(parameter.numel() for parameter in model.parameters()) - sum(layers)
        packed = sum(layers) * (0.5 + constant / 64)
        sixteen = max(layers, default=0) if torch.cuda.is_available() else sum(layers)
        return int(packed + 4 * rest + 2 * sixteen)

    def load_quantized(
        self, wanted: BaseRequest, whole: tuple[str, ...] | None = None
    ) -> "PreTrainedModel":
        """The base in NF4 but for the modules `whole`; by default but for its output layer."""
        from transformers import BitsAndBytesConfig

        return wanted.load(
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=self.options.double_quantization,
                bnb_4bit_compute_dtype=wanted.dtype,
                llm_int8_skip_modules=list(whole) if whole else None,
            )
        )
