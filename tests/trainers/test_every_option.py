"""Every option does something: changing it changes the run, or is refused.

`OPTIONS` has an entry for each field of the configuration; one that is added without an entry fails
the test. An entry says what is set beside the field, what the field is changed to, and where the
change is seen. What a manifest repeats of the configuration is no place to see it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from adaptery.config import fields_of
from adaptery.errors import AdapteryError
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.config import RunConfig
from adaptery.trainers.method import Method
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.train import TrainingResult
from tests.models import write_rows
from tests.trainers.runs import rows, run

MOST_TOKENS = 150  # of the memory that runs out


@dataclass
class Seen:
    """What can be seen of a run."""

    error: str = ""
    weights: str = ""
    adapter: str = ""
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    measured: list[int] = field(default_factory=list)
    """Steps after which the held-out rows were measured."""
    events: list[str] = field(default_factory=list)
    samples: int = 0
    files: list[str] = field(default_factory=list)
    """Of the run directory."""
    place: str = ""
    shapes: list[tuple[bool, tuple[int, ...]]] = field(default_factory=list)
    """Of what went through the model: whether with gradients, and (rows, tokens)."""
    layers: int = 0
    """How often a layer was computed."""
    base: str = ""
    """The directory or Hub revision that the base came from."""


@dataclass(frozen=True)
class Option:
    """`given` is set in both runs, `changed` in the second; `seen` is the field of `Seen`."""

    changed: Any
    seen: str = "weights"
    given: Mapping[str, Any] = field(default_factory=dict)


def file(name: str) -> Callable[[Path], str]:
    """A file of the test's folder."""
    return lambda folder: str(folder / name)


SGD = {"training.optimizer": "sgd", "training.learning_rate": 1.0}
HELD_OUT = {"data.eval": file("eval.jsonl"), "evaluation.baseline": False}
MID_RUN = HELD_OUT | {"evaluation.every": 1}
TEXTS = {"data.train": file("texts.jsonl"), "task.kind": "classify"}
TIMES = {"training.max_steps": 4}
OPTIONS: dict[str, Option] = {
    "name": Option("others", "place"),
    "base": Option(file("other-base")),
    "revision": Option("v2", "base", {"base": "org/model"}),
    "method": Option("loraplus"),
    "options": Option({"rslora": True}),
    "task.kind": Option("classify", given={"data.train": file("letters.jsonl")}),
    "task.way": Option("head", "adapter", TEXTS),
    "task.labels": Option(("a", "b", "c"), "adapter", TEXTS | {"task.way": "head"}),
    "task.words": Option({"a": "x", "b": "y"}, given=TEXTS),
    "task.instruction": Option("Which letter?", given=TEXTS),
    "task.weights": Option({"a": 1.0, "b": 5.0}, given=TEXTS),
    "data.train": Option(file("others.jsonl")),
    "data.eval": Option(file("eval.jsonl"), "metrics"),
    "data.format": Option("labelled", "error"),
    "data.columns": Option({"messages": "chat"}, "error", {"data.train": file("renamed.jsonl")}),
    "data.max_length": Option(10, "error"),
    "data.too_long": Option("drop", "error", {"data.max_length": 20}),
    "lora.r": Option(2, "adapter"),
    "lora.alpha": Option(16),
    "lora.dropout": Option(0.5),
    "lora.targets": Option("mlp", "adapter"),
    "training.epochs": Option(1, "steps", {"training.max_steps": None, "training.batch_size": 10}),
    "training.max_steps": Option(2, "steps"),
    "training.learning_rate": Option(1e-3, "rates"),
    "training.batch_size": Option(2, "shapes"),
    "training.batch_tokens": Option(40, "shapes"),
    "training.accumulation": Option(2),
    "training.packing": Option("off", "shapes"),
    "training.group_by_length": Option(False, "shapes", {"training.batch_size": 3}),
    "training.optimizer": Option("sgd"),
    "training.scheduler": Option("constant", "rates"),
    "training.warmup": Option(0.5, "rates", TIMES),
    "training.weight_decay": Option(0.5),
    "training.max_grad_norm": Option(1e-3, given=SGD),
    "training.precision": Option("bf16"),
    "training.gradient_checkpointing": Option(True, "layers"),
    "training.out_of_memory": Option("stop", "error", {"training.batch_size": 8}),
    "training.seed": Option(1),
    "training.log_every": Option(2, "steps"),
    "training.checkpoint_every": Option(1, "checkpoints", {"training.keep_checkpoints": 9}),
    "training.keep_checkpoints": Option(2, "checkpoints", {"training.checkpoint_every": 1}),
    "evaluation.metrics": Option(("accuracy",), "metrics", HELD_OUT),
    "evaluation.baseline": Option(False, "metrics", {"data.eval": file("eval.jsonl")}),
    "evaluation.batch_size": Option(2, "shapes", HELD_OUT),
    "evaluation.max_new_tokens": Option(1, "shapes", HELD_OUT),
    "evaluation.every": Option(1, "measured", HELD_OUT),
    "evaluation.best": Option("accuracy", "events", MID_RUN),
    "evaluation.patience": Option(1, "steps", MID_RUN | TIMES | {"evaluation.best": "accuracy"}),
    "evaluation.samples": Option(2, "samples", MID_RUN),
    "report_to": Option(("tensorboard",), "files"),
    "runs": Option(file("elsewhere"), "place"),
}


def of_methods() -> dict[tuple[str, str], Any]:
    """Another value for each option of each built-in method."""
    found = {}
    manager = PluginManager(entry_points=[])
    for name, item in manager.registered("training_methods").items():
        method: type[Method] = item.spec.load()
        for option, description in method.Options.model_fields.items():
            value = method.defaults.get(option, description.default)
            found[name, option] = CHANGED.get(option) or not value
    return found


# Where the other value is not the other of two.
CHANGED: dict[str, Any] = {
    "init": "gaussian",
    "ratio": 2.0,
    "initial_rank": 7,
    "settle": 0.4,
    "finish": 0.5,
    "orthogonality": 50.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Files of rows, and another base."""
    from tests.models import write_tiny_base

    folder = tmp_path_factory.mktemp("options")
    write_rows(folder / "others.jsonl", rows(20, start=200))
    write_rows(folder / "eval.jsonl", rows(9, start=40))
    asked = [f"{'the sky ' * (n % 4)}{n}" for n in range(20)]
    chats = [[("user", asked[n]), ("assistant", "ab"[n % 2])] for n in range(20)]
    write_rows(folder / "letters.jsonl", chats)
    renamed = write_rows(folder / "renamed.jsonl", rows(20))
    renamed.write_text(renamed.read_text().replace('"messages"', '"chat"'))
    texts = [{"text": asked[n], "label": "aab"[n % 3]} for n in range(20)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    write_tiny_base(folder / "other-base", seed=9)
    return folder


@dataclass
class Model:
    """Sees what goes through the model, and lets its memory run out."""

    shapes: list[tuple[bool, tuple[int, ...]]] = field(default_factory=list)
    layers: int = 0
    most: int | None = None
    revision: str = ""

    def take(self) -> tuple[list[tuple[bool, tuple[int, ...]]], int, str]:
        taken = self.shapes, self.layers, self.revision
        self.shapes, self.layers, self.revision = [], 0, ""
        return taken


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> Model:
    seen = Model()
    forward, attention = Qwen2Model.forward, Qwen2Attention.forward

    def watched(self: Any, input_ids: Any = None, **more: Any) -> Any:
        shape = tuple(input_ids.shape)
        seen.shapes.append((torch.is_grad_enabled(), shape))
        if seen.most and torch.is_grad_enabled() and shape[0] * shape[1] > seen.most:
            raise torch.OutOfMemoryError("there is no more")
        return forward(self, input_ids=input_ids, **more)

    def counted(self: Any, *more: Any, **named: Any) -> Any:
        seen.layers += 1
        return attention(self, *more, **named)

    def downloaded(base: str, revision: str | None = None, **more: Any) -> str:
        seen.revision = f"{base}@{revision}"
        return str(tiny_base)

    monkeypatch.setattr(Qwen2Model, "forward", watched)
    monkeypatch.setattr(Qwen2Attention, "forward", counted)
    monkeypatch.setattr("huggingface_hub.snapshot_download", downloaded)
    return seen


def trained(folder: Path, base: Path, model: Model, options: Mapping[str, Any]) -> Seen:
    """What is seen of a short run."""
    short = {"training.max_steps": 3, "runs": str(folder / "runs"), "base": str(base)}
    values = {
        key: value(folder) if callable(value) else value
        for key, value in (short | dict(options)).items()
    }
    try:
        result = run(folder, base, **values)
    except AdapteryError as error:
        shapes, _, revision = model.take()
        return Seen(error=f"{type(error).__name__}: {error}", shapes=shapes, base=revision)
    return seen_of(result, model)


def seen_of(result: TrainingResult, model: Model) -> Seen:
    directory = RunDirectory(result.run)
    rows = directory.metrics()
    logged = [row for row in rows if "loss" in row]
    weights = (result.adapter / "adapter_model.safetensors").read_bytes()
    shapes, layers, revision = model.take()
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    return Seen(
        weights=hashlib.sha256(weights).hexdigest(),
        adapter=json.dumps({key: config[key] for key in ("r", "target_modules", "task_type")})
        + str(result.trainable_parameters),
        losses=[row["loss"] for row in logged],
        rates=[row["learning_rate"] for row in logged],
        steps=[row["step"] for row in logged],
        checkpoints=directory.checkpoints.steps(),
        metrics=result.manifest.metrics,
        measured=[row["step"] for row in rows if "eval.loss" in row],
        events=[event["sentence"] for event in directory.events()],
        samples=len(directory.samples()),
        files=sorted(str(path.relative_to(result.run).parts[0]) for path in result.run.rglob("*")),
        place=str(result.run).rpartition("-")[0].rpartition("-")[0],
        shapes=shapes,
        layers=layers,
        base=revision,
    )


def test_every_field_has_an_entry() -> None:
    assert set(OPTIONS) == set(fields_of(RunConfig))


@pytest.mark.parametrize("key", OPTIONS)
def test_an_option_changes_the_run(
    key: str, folder: Path, tiny_base: Path, model: Model, known: dict[str, Seen]
) -> None:
    option = OPTIONS[key]
    if key == "training.out_of_memory":
        model.most = MOST_TOKENS
    name = json.dumps({k: str(v) for k, v in option.given.items()}) + str(model.most)
    if name not in known:
        known[name] = trained(folder, tiny_base, model, option.given)
    changed = trained(folder, tiny_base, model, {**option.given, key: option.changed})
    before, after = (getattr(seen, option.seen) for seen in (known[name], changed))
    assert before != after
    if option.seen != "error":
        assert not known[name].error
        assert not changed.error


@pytest.fixture(scope="module")
def known() -> dict[str, Seen]:
    """Runs that several options are compared with."""
    return {}


@pytest.mark.parametrize(("method", "option"), of_methods(), ids=lambda name: name)
def test_an_option_of_a_method_changes_the_weights_or_is_refused(
    method: str, option: str, folder: Path, tiny_base: Path, model: Model, known: dict[str, Seen]
) -> None:
    short = {"method": method, "training.max_steps": 10 if method == "adalora" else 2}
    if method not in known:
        known[method] = trained(folder, tiny_base, model, short)
    assert not known[method].error
    options = {"options": {option: of_methods()[method, option]}}
    changed = trained(folder, tiny_base, model, short | options)
    assert changed.error or changed.weights != known[method].weights
