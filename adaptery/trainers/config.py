"""What a training run is asked to do. Field descriptions become the command line's help."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from adaptery.config import Config
from adaptery.types import check_name

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
GROUPS = ("auto", "all", "attention", "mlp")  # of linear layers
REPORTERS = ("tensorboard", "wandb", "mlflow")


class DataConfig(Config):
    """Where the rows are and how long one may be."""

    train: str = Field(description="training rows: a JSONL, CSV or Parquet file, or hf://ORG/NAME")
    eval: str | None = Field(None, description="held-out rows; without them nothing is measured")
    format: str = Field("auto", description="data format plugin; auto: by the columns")
    columns: dict[str, str] = Field(
        {}, description="our name of a column to the file's, such as {text: sentence}"
    )
    max_length: Positive = Field(
        1024, description="tokens in one row; a longer row is an error, never cut silently"
    )
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="what becomes of longer rows; dropped ones are counted and recorded"
    )


class TaskConfig(Config):
    """What is learned: text, or a class that is told by a word or by a classification head."""

    kind: Literal["sft", "classify", "pair"] = Field(
        "sft", description="sft: answers; classify: a class of a text; pair: a class of two texts"
    )
    way: Literal["words", "head"] = Field(
        "words", description="how a class is told: label words of a decoder, or a head (SEQ_CLS)"
    )
    labels: tuple[str, ...] = Field((), description="the classes in order; by default those found")
    words: dict[str, str] = Field({}, description="label to label word; by default the label")
    instruction: str | None = Field(
        None, description="the system message that asks for the class, where rows hold texts alone"
    )
    weights: Literal["none", "auto"] | dict[str, float] = Field(
        "none", description="class weights of the loss: none, auto (inverse frequency) or by label"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`task: classify` is `task: {kind: classify}`."""
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("words", mode="before")
    @classmethod
    def _quoted(cls, words: Any) -> Any:
        if isinstance(words, dict) and any(isinstance(word, bool) for word in words.values()):
            raise ValueError("YAML reads yes, no, on and off as true and false: quote the words")
        return words

    @model_validator(mode="after")
    def _fits(self) -> "TaskConfig":
        """Options that another kind or way would not read are refused, not ignored."""
        idle = {"labels", "words", "instruction", "weights"} if self.kind == "sft" else set()
        if self.kind != "sft" and self.way == "head":
            idle = {"words", "instruction"}
        for name in sorted(idle):
            if getattr(self, name) != type(self).model_fields[name].default:
                what = "sft" if self.kind == "sft" else "a classification head"
                raise ValueError(f"{name!r} means nothing to {what}; take it out")
        if self.kind == "sft" and self.way == "head":
            raise ValueError("a head tells classes: the kind must be classify or pair")
        return self


class LoraSettings(Config):
    """The low-rank update (arXiv:2106.09685), whichever method trains it."""

    r: Positive = Field(16, description="rank; AdaLoRA's average rank at the end")
    alpha: Annotated[float, Field(gt=0)] = Field(32, description="scaling numerator")
    dropout: Share = Field(0.0, description="dropout before A")
    targets: Literal["auto", "all", "attention", "mlp"] | tuple[str, ...] = Field(
        "auto",
        description="linear layers to adapt: auto (all that the model family's attention and mlp "
        "have), all, attention, mlp, or a list of names",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`q_proj,v_proj` from a flag or variable is a list of names."""
        if isinstance(value, str) and value not in GROUPS:
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
    batch_size: Positive = Field(16, description="rows in one micro-batch of one process")
    batch_tokens: Positive | None = Field(
        None, description="at most so many tokens in a micro-batch, whatever batch_size says"
    )
    accumulation: Positive = Field(1, description="micro-batches in one optimizer step")
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="rows of a micro-batch laid end to end, none seeing another, instead of padded",
    )
    group_by_length: bool = Field(True, description="rows of like length in one micro-batch")
    optimizer: str = Field("adamw_torch", description="as transformers names it: adamw_8bit, …")
    scheduler: str = Field("cosine", description="as transformers names it: linear, constant, …")
    warmup: Share = Field(0.05, description="share of the steps in which the rate rises")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradient clipping")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="arithmetic; auto is bf16 where the hardware multiplies it"
    )
    gradient_checkpointing: bool = Field(
        False, description="less memory for about a third more time"
    )
    out_of_memory: Literal["halve", "stop"] = Field(
        "halve", description="halve: half the micro-batch, double the accumulation, and go on"
    )
    seed: int = Field(0, description="of initial weights, row order and dropout")
    log_every: Positive = Field(10, description="steps between rows of metrics.jsonl")
    checkpoint_every: Positive = Field(200, description="steps between checkpoints")
    keep_checkpoints: Positive = Field(1, description="how many of the last checkpoints stay")

    @field_validator("packing", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """YAML reads `on` and `off` as true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("optimizer", "scheduler")
    @classmethod
    def _lower(cls, name: str) -> str:
        return name.lower()


class EvaluationConfig(Config):
    """What is measured on `data.eval`: while training, and when it has ended."""

    metrics: tuple[str, ...] | Literal["auto"] = Field(
        "auto", description="metric plugins; auto: accuracy and macro_f1 where answers are labels"
    )
    baseline: bool = Field(True, description="measure the untuned base on the same rows too")
    batch_size: Positive = Field(64, description="rows in one batch")
    max_new_tokens: Positive = Field(256, description="tokens of a generated answer, at most")
    every: Positive | None = Field(
        None, description="measure every so many steps, and keep the best checkpoint"
    )
    best: str = Field("loss", description="what makes a checkpoint the best: loss or a metric")
    patience: Positive | None = Field(
        None, description="stop after so many measurements without a better one"
    )
    samples: Annotated[int, Field(ge=0)] = Field(
        0, description="answers to held-out rows that every measurement writes to samples.jsonl"
    )

    @model_validator(mode="after")
    def _needs_every(self) -> "EvaluationConfig":
        for name in ("patience", "samples"):
            if getattr(self, name) and not self.every:
                raise ValueError(f"{name!r} needs evaluation.every: nothing is measured in mid-run")
        if self.best != "loss" and not self.every:
            raise ValueError("'best' needs evaluation.every: nothing is measured in mid-run")
        return self


class RunConfig(Config):
    """One training run."""

    name: str = Field(description="adapter to publish a version of")
    base: str = Field(description="base model: a Hub id or a directory")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub base")
    method: str = Field("lora", description="training method plugin")
    options: dict[str, Any] = Field({}, description="the method's own options")
    task: TaskConfig = TaskConfig()
    data: DataConfig
    lora: LoraSettings = LoraSettings()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report_to: tuple[str, ...] = Field((), description=f"of {', '.join(REPORTERS)}")
    runs: Path = Field(Path("runs"), description="folder for run directories")

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return check_name(name)

    @field_validator("report_to", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        parts = [value] if isinstance(value, str) else value
        value = tuple(name.strip() for part in parts for name in part.split(",") if name.strip())
        for name in value:
            if name not in REPORTERS:
                raise ValueError(f"{name!r} is none of {', '.join(REPORTERS)}")
        return value

    @model_validator(mode="after")
    def _held_out(self) -> "RunConfig":
        if self.evaluation.every and not self.data.eval:
            raise ValueError("evaluation.every needs data.eval, the rows to measure on")
        return self
