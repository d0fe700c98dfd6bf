"""AdaLoRA (arXiv:2303.10512): ΔW = B Λ A, with Λ pruned layer by layer to a shared budget."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from adaptery import hookimpl
from adaptery.config import Config
from adaptery.errors import ConfigError, VerificationError
from adaptery.plugins.specs import Spec
from adaptery.trainers.bake import PREFIX, LowRank, head_tensors, write_lora
from adaptery.trainers.method import AdapterPlan, Method

if TYPE_CHECKING:
    import torch
    from peft import AdaLoraConfig, PeftModel
    from peft.tuners.adalora import SVDLinear
    from transformers import PreTrainedModel

Share = Annotated[float, Field(ge=0, lt=1)]


@hookimpl
def training_methods() -> list[Spec]:
    return [
        Spec(
            "adalora", "ranks move to the layers that need them (arXiv:2303.10512)", lambda: AdaLora
        )
    ]


class AdaLoraOptions(Config):
    initial_rank: Annotated[int, Field(gt=1)] | None = Field(
        None, description="rank of every layer at the start; 1.5 times lora.r where not given"
    )
    settle: Share = Field(0.1, description="share of the steps before the first pruning")
    finish: Share = Field(0.3, description="share of the steps after the last pruning")
    orthogonality: Annotated[float, Field(ge=0)] = Field(0.5, description="weight of the penalty")


class AdaLora(Method):
    """`lora.r` is the average rank per layer at the end; where the ranks go, the data decides."""

    Options = AdaLoraOptions
    options: AdaLoraOptions
    learning_rate = 1e-3

    def peft_config(self, plan: AdapterPlan) -> "AdaLoraConfig":
        from peft import AdaLoraConfig

        initial = self.options.initial_rank or -(-3 * plan.lora.r // 2)
        if initial <= plan.lora.r:
            raise ConfigError(
                f"The option 'initial_rank' of adalora is {initial} and lora.r is {plan.lora.r}: "
                "there is nothing to prune. Make the initial rank larger."
            )
        first = round(self.options.settle * plan.total_steps)
        last = round(self.options.finish * plan.total_steps)
        if plan.total_steps - first - last < 3:
            raise ConfigError(
                f"AdaLoRA has {plan.total_steps - first - last} of {plan.total_steps} steps in "
                "which to move ranks; it needs 3. Train longer, or lower the options 'settle' and "
                "'finish'."
            )
        arguments = plan.lora_arguments()
        del arguments["r"]
        return AdaLoraConfig(
            **arguments,
            init_r=initial,
            target_r=plan.lora.r,
            tinit=first,
            tfinal=last,
            deltaT=max(1, plan.total_steps // 100),
            total_step=plan.total_steps,
            orth_reg_weight=self.options.orthogonality,
        )

    def adapt(self, model: "PreTrainedModel", plan: AdapterPlan) -> "PeftModel":
        adapted = super().adapt(model, plan)
        for layer in svd_layers(
            adapted
        ):  # of an outline, PEFT would let the rank itself be learned
            layer.ranknum["default"].requires_grad_(False)
        return adapted

    def penalty(self, model: "PeftModel") -> "torch.Tensor":
        """Mean ‖P Pᵀ − I‖ over all A and B. PEFT adds it only to a loss that it computed itself."""
        import torch

        norms = []
        for layer in svd_layers(model):
            for factor in (layer.lora_A["default"], layer.lora_B["default"].T):
                gram = factor @ factor.T
                norms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.options.orthogonality * torch.stack(norms).mean()

    def after_step(self, model: "PeftModel", step: int) -> None:
        model.base_model.update_and_allocate(step)

    def settled(self, model: "PeftModel", step: int) -> bool:
        """After the last pruning every layer has the rank that it keeps."""
        config = model.peft_config["default"]
        return bool(step >= config.total_step - config.tfinal)

    def state(self, model: "PeftModel") -> dict[str, Any]:
        allocator = model.base_model.rankallocator
        return {
            "ipt": allocator.ipt,
            "exp_avg_ipt": allocator.exp_avg_ipt,
            "exp_avg_unc": allocator.exp_avg_unc,
            "rank_pattern": model.peft_config["default"].rank_pattern,
        }

    def restore(self, model: "PeftModel", state: dict[str, Any]) -> None:
        allocator = model.base_model.rankallocator
        allocator.ipt, allocator.exp_avg_ipt = state["ipt"], state["exp_avg_ipt"]
        allocator.exp_avg_unc = state["exp_avg_unc"]
        model.peft_config["default"].rank_pattern = state["rank_pattern"]

    def shapes(self, model: "PeftModel") -> dict[str, tuple[int, ...]]:
        """At the end there is the average rank of `lora.r`, whichever layers it goes to."""
        rank = model.peft_config["default"].target_r
        names = {module: name for name, module in model.base_model.model.named_modules()}
        shapes = {name: tuple(tensor.shape) for name, tensor in head_tensors(model).items()}
        for layer in svd_layers(model):
            name = f"{PREFIX}{names[layer]}"
            shapes[f"{name}.lora_A.weight"] = (rank, layer.in_features)
            shapes[f"{name}.lora_B.weight"] = (layer.out_features, rank)
        return shapes

    def bake(self, model: "PeftModel", directory: Path) -> None:
        """Fold Λ and the scaling into A and B, and keep each layer's true rank.

        ΔW = B (A ∘ E) · alpha / (initial rank + 1e-5), as PEFT computes it; √|E · scale| goes to
        either side, so that both factors stay in the comfortable range of 16-bit floats.

        Raises:
            VerificationError: the ranks never moved.
        """
        names = {module: name for name, module in model.base_model.model.named_modules()}
        layers = {names[layer]: plain(layer) for layer in svd_layers(model)}
        kept = sum(layer.a.shape[0] for layer in layers.values())
        initial = sum(layer.lora_E["default"].shape[0] for layer in svd_layers(model))
        if not 0 < kept < initial:
            raise VerificationError(
                f"AdaLoRA ended with a total rank of {kept} of {initial}: its ranks did not move, "
                "so this is not the adapter that was asked for. Train for more steps."
            )
        config = model.peft_config["default"]
        write_lora(
            layers,
            directory,
            task_type=config.task_type,
            heads=config.modules_to_save or (),
            head_tensors=head_tensors(model),
        )


def svd_layers(model: "PeftModel") -> "Iterator[SVDLinear]":
    """The layers that AdaLoRA changes."""
    from peft.tuners.adalora import SVDLinear

    return (module for module in model.modules() if isinstance(module, SVDLinear))


def plain(layer: "SVDLinear") -> LowRank:
    """One layer's update with pruned triplets dropped."""
    a, e, b = (part["default"].detach() for part in (layer.lora_A, layer.lora_E, layer.lora_B))
    kept = (e != 0).flatten()
    values = e[kept] * layer.scaling["default"] / (layer.ranknum["default"] + 1e-5)
    root = values.abs().sqrt()
    return LowRank(a=a[kept] * root * values.sign(), b=b[:, kept] * root.T)
