import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from adaptery.base_model import LocalBase
from adaptery.errors import AdapteryError, BaseNotFound, ConfigError, DataError, UnknownName
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.config import DataConfig
from adaptery.trainers.data.reading import read_rows
from adaptery.trainers.method import Method
from adaptery.trainers.watching import Silent
from adaptery.types import Manifest, sha256_of
from tests.models import write_rows
from tests.trainers.runs import rows, run, tensors


def digest_of(path: Path) -> str:
    formats = PluginManager(entry_points=[]).load_all("data_formats")
    return read_rows(str(path), DataConfig(train=str(path)), formats).digest


def held_out(folder: Path) -> str:
    return str(write_rows(folder / "eval.jsonl", rows(9, start=40)))


def test_the_manifest_says_what_was_done(base: LocalBase, tmp_path: Path) -> None:
    result = run(tmp_path, base.directory, method="loraplus", options__ratio=4, training__seed=7)
    manifest = result.manifest
    assert manifest.base == base.identity
    assert manifest.method == "loraplus"
    assert manifest.seed == 7
    assert manifest.data_digest == digest_of(tmp_path / "train.jsonl")
    assert manifest.template_digest == sha256_of(str(base.tokenizer.chat_template).encode())
    assert manifest.tokenizer_digest == base.tokenizer_digest
    assert manifest.packages.keys() >= {"python", "torch", "peft", "transformers", "adaptery"}
    assert manifest.config["options"]["ratio"] == 4.0
    assert manifest.config["lora"]["r"] == 4
    assert manifest.config["data"]["train"] == "train.jsonl"
    assert str(tmp_path) not in json.dumps(manifest.config)
    assert Manifest.model_validate_json(manifest.canonical()) == manifest


def test_a_run_directory_holds_the_story(tiny_base: Path, tmp_path: Path) -> None:
    result = run(tmp_path, tiny_base)
    assert {path.name for path in result.run.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "checkpoint-10.pt",
        "adapter",
        "result.json",
    }
    told = json.loads((result.run / "result.json").read_text())
    assert told["trainable_parameters"] == result.trainable_parameters
    assert result.seconds > 0
    assert result.peak_memory > 10_000_000


def test_without_held_out_rows_nothing_is_measured(tiny_base: Path, tmp_path: Path) -> None:
    assert run(tmp_path, tiny_base).manifest.metrics == {}


def test_measuring_does_not_change_what_is_trained(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    changes: dict[str, Any] = {"lora__dropout": 0.1}
    plain = tensors(run(tmp_path / "a", tiny_base, **changes))
    measured = run(tmp_path / "b", tiny_base, data__eval=held_out(tmp_path / "b"), **changes)
    without_base = run(
        tmp_path / "c",
        tiny_base,
        data__eval=held_out(tmp_path / "c"),
        evaluation__baseline=False,
        **changes,
    )
    for result in (measured, without_base):
        assert all(torch.equal(plain[name], tensor) for name, tensor in tensors(result).items())
    assert not any(name.startswith("base.") for name in without_base.manifest.metrics)
    own = {n: v for n, v in measured.manifest.metrics.items() if not n.startswith("base.")}
    assert own == without_base.manifest.metrics


def test_the_bases_score_is_of_the_base_alone(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an adapter, unlike LoRA's, changes the model before its first step."""

    def scores(name: str) -> dict[str, float]:
        (tmp_path / name).mkdir()
        changes = {"data__eval": held_out(tmp_path / name), "training__max_steps": 1}
        metrics = run(tmp_path / name, tiny_base, **changes).manifest.metrics
        return {key: value for key, value in metrics.items() if key.startswith("base.")}

    expected = scores("a")
    monkeypatch.setattr(
        Method,
        "peft_config",
        lambda self, plan: LoraConfig(**plan.lora_arguments(), init_lora_weights=False),
    )
    assert scores("b") == expected


def test_metrics_are_those_asked_for(tiny_base: Path, tmp_path: Path) -> None:
    result = run(
        tmp_path,
        tiny_base,
        data__eval=held_out(tmp_path),
        evaluation__metrics=("accuracy",),
        evaluation__baseline=False,
    )
    assert result.manifest.metrics.keys() == {"loss", "perplexity", "accuracy"}


def test_texts_get_no_label_metrics_by_themselves(tiny_base: Path, tmp_path: Path) -> None:
    texts = [[("user", f"question {n}"), ("assistant", f"answer {n}")] for n in range(40, 46)]
    path = str(write_rows(tmp_path / "eval.jsonl", texts))
    result = run(tmp_path, tiny_base, data__eval=path, evaluation__baseline=False)
    assert result.manifest.metrics.keys() == {"loss", "perplexity"}


def spoil_data(folder: Path) -> dict[str, Any]:
    (folder / "bad.jsonl").write_text("{\n")
    return {"data__train": str(folder / "bad.jsonl")}


def leak(folder: Path) -> dict[str, Any]:
    return {"data__eval": str(write_rows(folder / "eval.jsonl", rows(2)))}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (spoil_data, DataError),
        (leak, DataError),
        (lambda folder: {"data__train": str(folder / "missing.jsonl")}, DataError),
        (lambda folder: {"data__max_length": 10}, DataError),
        (lambda folder: {"base": str(folder / "nowhere")}, BaseNotFound),
        (lambda folder: {"lora__targets": "nonsense"}, UnknownName),
        (lambda folder: {"method": "lorra"}, UnknownName),
        (lambda folder: {"options__x": 1}, ConfigError),
        (lambda folder: {"method": "adalora", "training__max_steps": 2}, ConfigError),
    ],
    ids=["row", "leak", "missing", "long", "base", "target", "method", "option", "steps"],
)
def test_a_run_that_cannot_begin_leaves_no_directory(
    tiny_base: Path,
    tmp_path: Path,
    changes: Callable[[Path], dict[str, Any]],
    error: type[AdapteryError],
) -> None:
    with pytest.raises(error):
        run(tmp_path, tiny_base, **changes(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_watcher_hears_of_every_phase(tiny_base: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []
    pieces: list[int] = []

    class Listener(Silent):
        def phase(self, title: str, total: int) -> None:
            heard.append((title, total))
            pieces.append(0)

        def advance(self, number: int = 1, **figures: float) -> None:
            pieces[-1] += number

    run(tmp_path, tiny_base, data__eval=held_out(tmp_path), watcher=Listener())
    assert heard == [
        ("reading rows", 29),
        ("evaluating the untuned base", 9),
        ("training", 10),
        ("evaluating the adapter", 9),
    ]
    assert pieces == [29, 9, 10, 9]
