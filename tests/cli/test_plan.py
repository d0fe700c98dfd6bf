"""`adapters plan`: what it tells, from where, and that it loads no weights."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptery.trainers.compute.memory import keep_freed_memory
from adaptery.trainers.plan import making
from adaptery.trainers.plan.memory import Room
from tests.command import adapters, done
from tests.models import write_rows
from tests.trainers.runs import rows, run


@pytest.fixture(scope="module")
def outline(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base without its weights."""
    directory = tmp_path_factory.mktemp("outline") / "base"
    shutil.copytree(tiny_base, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list(directory.glob("*.safetensors"))
    return directory


def arguments(base: Path, folder: Path, *more: object) -> tuple[object, ...]:
    data = write_rows(folder / "train.jsonl", rows(20))
    return ("plan", "--name", "colours", "--base", base, "--data", data, *more)


def plan(base: Path, folder: Path, *more: object) -> dict[str, Any]:
    told: dict[str, Any] = done(*arguments(base, folder, "--json", *more)).json
    return told


def test_a_plan_needs_no_weights_and_tells_what_the_run_will_be(
    outline: Path, tiny_base: Path, tmp_path: Path
) -> None:
    sizes = ("--batch-size", 4, "--set", "training.accumulation=2", "--epochs", 4, "--rank", 4)
    told = plan(outline, tmp_path, *sizes, "--set", "training.warmup=0.25")
    result = run(
        tmp_path / "run", tiny_base, training__accumulation=2, training__epochs=4, lora__r=4
    )
    logged = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert told["steps"]["steps"] == logged[-1]["step"] == 12
    assert told["steps"]["effective_batch"] == 8
    assert told["steps"]["warmup_steps"] == 3
    assert told["adapter"]["trainable"] == result.trainable_parameters
    assert told["adapter"]["disk"] == (result.adapter / "adapter_model.safetensors").stat().st_size
    assert told["data"]["rows"] == 20
    assert told["data"]["format"] == "messages"
    assert told["fits"] is True


def test_tokens_are_counted_as_the_model_sees_them(outline: Path, tmp_path: Path) -> None:
    from adaptery.base_model import outline_base
    from adaptery.trainers.encoding import Encoder

    told = plan(outline, tmp_path)["data"]
    encoder = Encoder(outline_base(str(outline)).tokenizer)
    messages = [json.loads(line)["messages"] for line in (tmp_path / "train.jsonl").open()]
    lengths = [len(encoder.tokenize(encoder.render(chat))) for chat in messages]
    assert (told["tokens"], told["longest"]) == (sum(lengths), max(lengths))
    assert 0 < told["learned_tokens"] < told["tokens"]


def test_every_value_tells_where_it_came_from(
    outline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {weight_decay: 0.1}\nlora: {targets: [q_proj, v_proj]}\n")
    monkeypatch.setenv("ADAPTERS_TRAINING_SEED", "7")
    told = plan(
        outline, tmp_path, file, "--preset", "large", "--rank", 2, "--set", "training.warmup=0.2"
    )
    values = {row["key"]: (row["value"], row["origin"]) for row in told["values"]}
    assert values["training.weight_decay"] == (0.1, f"file {file}")
    assert values["lora.targets"] == (["q_proj", "v_proj"], f"file {file}")
    assert values["training.seed"] == (7, "environment ADAPTERS_TRAINING_SEED")
    assert values["training.accumulation"] == (8, "preset large")
    assert values["lora.r"] == (2, "flag --rank")
    assert values["training.warmup"] == (0.2, "--set")
    assert values["training.max_grad_norm"] == (1.0, "default")
    assert told["adapter"]["targets"] == ["q_proj", "v_proj"]


def test_parts_of_memory_answer_to_what_they_are_made_of(outline: Path, tmp_path: Path) -> None:
    def memory(*more: object) -> dict[str, int]:
        told: dict[str, int] = plan(outline, tmp_path, *more)["memory"]
        return told

    exact = plan(outline, tmp_path, "--set", "training.precision=fp32")
    plain = exact["memory"]
    assert plain["base"] == 4 * exact["adapter"]["base_parameters"]
    assert plain["adapter"] == 4 * exact["adapter"]["trainable"]
    assert plain["gradients"] == plain["adapter"]
    assert plain["optimizer"] == 2 * plain["adapter"]
    small = memory("--set", "training.precision=fp32", "--set", "training.optimizer=adamw_8bit")
    assert small["optimizer"] == plain["optimizer"] // 4
    assert memory("--set", "training.precision=bf16")["base"] == plain["base"] // 2
    quantized = memory("--set", "training.precision=bf16", "--method", "qlora")
    assert quantized["base"] < plain["base"]
    half = memory("--set", "training.precision=fp32", "--batch-size", 4)
    assert half["activations"] < 0.6 * plain["activations"]
    recomputed = memory(
        "--set", "training.precision=fp32", "--set", "training.gradient_checkpointing=true"
    )
    assert recomputed["activations"] < 0.8 * plain["activations"]
    whole = memory("--set", "training.precision=fp32", "--method", "full")
    assert whole["gradients"] == whole["base"]
    assert whole["optimizer"] == 2 * whole["base"]
    assert whole["probe"] == 0


def test_what_does_not_fit_ends_with_4_and_the_mildest_remedy(
    outline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--set", "training.precision=fp32", "--batch-size", 16)
    needed = plan(outline, tmp_path, *given)["memory"]
    monkeypatch.setattr(making, "room", lambda: Room("GPU", needed["peak"] - 1))
    refused = adapters(*arguments(outline, tmp_path, *given))
    assert refused.code == 4
    assert "GPU has" in refused.err
    assert "training.batch_size=8 and training.accumulation=2" in refused.err
    assert "at the same result" in refused.err
    assert "peak" in refused.out, "the plan is shown all the same"
    monkeypatch.setattr(making, "room", lambda: Room("GPU", 1000))
    refused = adapters(*arguments(outline, tmp_path, *given))
    assert refused.code == 4
    assert "qlora" in refused.err


def test_measuring_takes_real_steps_and_says_how_far_off_the_plan_was(
    tiny_base: Path, tmp_path: Path
) -> None:
    given = ("--measure", "--set", "training.precision=bf16")
    measured = plan(tiny_base, tmp_path, *given)["measured"]
    assert measured["peak"] > 0
    assert measured["seconds"] >= 0.5 * measured["seconds_per_micro_batch"] > 0
    assert measured["error"] == pytest.approx(measured["planned"] / measured["peak"] - 1, abs=1e-3)


def test_memory_that_was_used_and_freed_before_is_measured_all_the_same(
    tiny_base: Path, tmp_path: Path
) -> None:
    assert keep_freed_memory() or sys.platform != "linux"
    torch.ones(100_000_000)  # far more than the run takes, kept by the C library
    weights = (tiny_base / "model.safetensors").stat().st_size
    assert plan(tiny_base, tmp_path, "--measure")["measured"]["peak"] > weights


def test_measuring_without_weights_is_refused(outline: Path, tmp_path: Path) -> None:
    refused = adapters(*arguments(outline, tmp_path, "--measure"))
    assert refused.code == 2
    assert "safetensors" in refused.err


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--targets", "q_porj"), 2, "Did you mean 'q_proj'"),
        (("--method", "pissa", "--rank", 5000), 2, "parts at most"),
        (("--method", "adalora", "--max-steps", 2), 2, "in which to move ranks"),
        (("--set", "training.optimizer=adamw_tosch"), 2, "adamw_torch"),
        (("--max-length", 4), 3, "longer than"),
    ],
)
def test_what_a_run_would_be_refused_for_a_plan_is_refused_for(
    outline: Path, tmp_path: Path, more: tuple[object, ...], code: int, words: str
) -> None:
    refused = adapters(*arguments(outline, tmp_path, *more))
    assert refused.code == code
    assert words in refused.err


def test_a_classifier_with_a_head_is_planned(outline: Path, tmp_path: Path) -> None:
    data = tmp_path / "classes.jsonl"
    texts = [{"text": f"the sky {n}", "label": "blue" if n % 3 else "red"} for n in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in texts))
    told = done(
        *("plan", "--name", "c", "--base", outline, "--data", data, "--json"),
        *("--set", "task={kind: classify, way: head}"),
    ).json
    assert told["data"]["task"]["way"] == "head"
    assert told["memory"]["probe"] == 0
    assert told["adapter"]["disk"] > 4 * told["adapter"]["trainable"]
