"""What a training method says about itself: only what differs from plain LoRA.

A plugin subclasses `Method`; the one training path in `train.py` calls it. Heavy libraries are
imported inside the methods, so that listing the methods loads none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptery.config import Config, Layer, resolve
from adaptery.trainers.config import LoraSettings, TrainingConfig
from adaptery.trainers.optimizers import decay_groups, make_optimizer

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]


@dataclass(frozen=True)
class BaseRequest:
    """Which base is to be loaded, and with what on top: its own output layer, or a new head."""

    directory: Path
    dtype: "torch.dtype"
    device: str
    labels: tuple[str, ...] = ()
    """The classes of a classification head; none for a language model."""

    def load(self, **more: Any) -> "PreTrainedModel":
        """The model; `more` goes to `from_pretrained`.

        Raises:
            ValueError: transformers cannot load it, or the base lacks weights of a language model.
        """
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        where = {"dtype": self.dtype, "device_map": {"": self.device}, "output_loading_info": True}
        if not self.labels:
            model, info = AutoModelForCausalLM.from_pretrained(self.directory, **where, **more)
            if info["missing_keys"]:
                raise ValueError(
                    f"it has no weights for {', '.join(sorted(info['missing_keys'])[:3])}, so it "
                    "is no language model. For classes, task.way=head can train on it"
                )
            return model
        names = dict(enumerate(self.labels))
        model, info = AutoModelForSequenceClassification.from_pretrained(
            self.directory,
            num_labels=len(names),
            id2label=names,
            label2id={label: number for number, label in names.items()},
            **where,
            **more,
        )
        # What starts at random must be trained and saved whole: `head_modules` reads this.
        model.random_parameters = sorted(info["missing_keys"])
        return model


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """What the adapter is to be, with everything resolved against the base and the data.

    `targets` are module names as PEFT takes them; `heads` are modules that are trained whole and
    saved beside the adapter; `total_steps` counts optimizer steps.
    """

    lora: LoraSettings
    targets: list[str] | str
    total_steps: int
    seed: int
    task_type: TaskType = "CAUSAL_LM"
    heads: tuple[str, ...] = ()

    def lora_arguments(self) -> dict[str, Any]:
        """What every `LoraConfig` is made of."""
        return {
            "r": self.lora.r,
            "lora_alpha": self.lora.alpha,
            "lora_dropout": self.lora.dropout,
            "target_modules": self.targets,
            "task_type": self.task_type,
            "modules_to_save": list(self.heads) or None,
        }


class Method:
    """Plain LoRA (arXiv:2106.09685), and the base of every other method."""

    Options: ClassVar[type[Config]] = Config
    """The method's own options, `options` in a run's configuration."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Options that have another default than in `Options`."""

    learning_rate: ClassVar[float] = 2e-4
    """The peak rate where the run gives none."""

    makes_adapter: ClassVar[bool] = True
    """Whether what is trained can be written as an adapter, and so be published."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises `ConfigError` for an option that the method does not have."""
        given = Layer(options, dict.fromkeys(options, "options"))
        own = Layer(self.defaults, dict.fromkeys(self.defaults, "the method"))
        self.options = resolve(self.Options, [own, given]).value

    def load_base(self, wanted: BaseRequest) -> "PreTrainedModel":
        """The base with its weights frozen, as this method trains on it."""
        return wanted.load().requires_grad_(False)

    def base_dtype(self, arithmetic: "torch.dtype") -> "torch.dtype":
        """The number format of the base's weights in a run that computes in `arithmetic`."""
        return arithmetic

    def outlined(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """An outline of the base in `base_dtype`, changed as `load_base` changes the base beside
        its number of bits."""
        return model

    def base_bytes(self, model: "PreTrainedModel") -> int:
        """What the base takes in memory as `load_base` holds it; `model` is an outline of it in
        `base_dtype`."""
        return sum(p.numel() * p.element_size() for p in model.parameters())

    def peft_config(self, plan: AdapterPlan) -> "PeftConfig":
        """PEFT's configuration of the adapter."""
        from peft import LoraConfig

        return LoraConfig(**plan.lora_arguments())

    def adapt(self, model: "PreTrainedModel", plan: AdapterPlan) -> "PeftModel":
        """Put what is trained on the base: in fp32, and all that is trainable."""
        from peft import get_peft_model

        return get_peft_model(model, self.peft_config(plan))

    def optimizer(
        self, model: "PeftModel", rate: float, training: TrainingConfig
    ) -> "torch.optim.Optimizer":
        """The optimizer that `training` names, over the trainable parameters."""
        return make_optimizer(decay_groups(model.parameters(), training), training, rate)

    def penalty(self, model: "PeftModel") -> "torch.Tensor | None":
        """A term that is added to the loss, a scalar tensor, if the method has one."""
        return None

    def after_step(self, model: "PeftModel", step: int) -> None:
        """Called after optimizer step `step` (from 1), gradients still there."""

    def settled(self, model: "PeftModel", step: int) -> bool:
        """Whether what is trained has its final shape; no earlier checkpoint can be the best."""
        return True

    def state(self, model: "PeftModel") -> dict[str, Any]:
        """What a checkpoint must keep beside weights and optimizer: tensors, numbers, strings."""
        return {}

    def restore(self, model: "PeftModel", state: dict[str, Any]) -> None:
        """Undo `state`."""

    def shapes(self, model: "PeftModel") -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that `bake` will write, as far as they stand at the
        start; `model` may be an outline without weights."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def bake(self, model: "PeftModel", directory: Path) -> None:
        """Write the trained adapter into `directory` as plain LoRA in PEFT's format, exactly.

        Raises:
            VerificationError: the method did not do what it is for.
        """
        model.save_pretrained(directory, safe_serialization=True)
