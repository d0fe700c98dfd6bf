"""What a training run is asked to do. Field descriptions become the command line's help."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from adaptery.config import Config
from adaptery.types import check_name

Positive = Annotated[int, Field(gt=0)]


class DataConfig(Config):
    """Where the rows are and how long one may be."""

    train: Path = Field(description="training rows")
    eval: Path | None = Field(None, description="held-out rows; without them nothing is measured")
    format: str = Field("messages", description="data format plugin")
    max_length: Positive = Field(
        1024, description="tokens in one row; a longer row is an error, never cut silently"
    )


class LoraSettings(Config):
    """The low-rank update (arXiv:2106.09685), whichever method trains it."""

    r: Positive = Field(16, description="rank; AdaLoRA's average rank at the end")
    alpha: Annotated[float, Field(gt=0)] = Field(32, description="scaling numerator")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before A")
    targets: Literal["all", "attention", "mlp"] | tuple[str, ...] = Field(
        "all", description="linear layers to adapt: all, attention, mlp, or a list of names"
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`q_proj,v_proj` from a flag or variable is a list of names."""
        if isinstance(value, str) and value not in ("all", "attention", "mlp"):
            value = tuple(name.strip() for name in value.split(",") if name.strip())
        if not value:
            raise ValueError("name at least one target")
        return value


class TrainingConfig(Config):
    """The optimisation."""

    epochs: Annotated[float, Field(gt=0)] = Field(3, description="passes over the training rows")
    max_steps: Positive | None = Field(None, description="stop after that many optimizer steps")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="peak rate; the method's own default where not given"
    )
    batch_size: Positive = Field(16, description="rows in one micro-batch")
    accumulation: Positive = Field(1, description="micro-batches in one optimizer step")
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="how the rate falls after warm-up"
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of the steps in which the rate rises"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradient clipping")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic; auto is bf16 where the hardware multiplies it"
    )
    gradient_checkpointing: bool = Field(
        False, description="less memory for about a third more time"
    )
    seed: int = Field(0, description="of initial weights, row order and dropout")
    log_every: Positive = Field(10, description="steps between rows of metrics.jsonl")
    checkpoint_every: Positive = Field(200, description="steps between checkpoints")


class EvaluationConfig(Config):
    """What is measured on `data.eval` when training has ended."""

    metrics: tuple[str, ...] | Literal["auto"] = Field(
        "auto", description="metric plugins; auto: accuracy and macro_f1 where answers are labels"
    )
    baseline: bool = Field(True, description="measure the untuned base on the same rows too")
    batch_size: Positive = Field(64, description="rows in one batch")


class RunConfig(Config):
    """One training run."""

    name: str = Field(description="adapter to publish a version of")
    base: str = Field(description="base model: a Hub id or a directory")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub base")
    method: str = Field("lora", description="training method plugin")
    options: dict[str, Any] = Field({}, description="the method's own options")
    data: DataConfig
    lora: LoraSettings = LoraSettings()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runs: Path = Field(Path("runs"), description="folder for run directories")

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return check_name(name)


# Starting points by size of the base. Rates fall and micro-batches shrink as models grow.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"training": {"learning_rate": 2e-3, "batch_size": 16, "epochs": 3}},
    "small": {"training": {"learning_rate": 2e-4, "batch_size": 8, "accumulation": 2, "epochs": 3}},
    "large": {
        "training": {
            "learning_rate": 1e-4,
            "batch_size": 2,
            "accumulation": 8,
            "epochs": 2,
            "gradient_checkpointing": True,
        }
    },
}
