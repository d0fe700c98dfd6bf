"""A run.yaml to begin with: what stands in it, and that it runs."""

from pathlib import Path

import pytest
import yaml

from adaptery.cli.run_options import run_config
from adaptery.config import fields_of
from adaptery.trainers.config import RunConfig
from adaptery.trainers.starting import parameters_in
from tests.command import adapters, done
from tests.models import write_rows
from tests.trainers.runs import rows


def init(output: Path, *more: object) -> RunConfig:
    """The configuration of a file that init wrote."""
    done("init", "--output", output, *more)
    return run_config(output, None, (), (), None, {}).value


def test_the_file_names_every_option_with_its_meaning(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    init(file, "--base", "Qwen/Qwen2.5-7B-Instruct", "--gpu-memory", 24)
    text = file.read_text()
    for key in fields_of(RunConfig):
        name = key.rpartition(".")[2]
        assert f"{name}:" in text, key
    assert "a longer row is an error, never cut silently" in text
    assert "uncomment" in text


def test_every_option_that_is_commented_out_shows_its_default(tmp_path: Path) -> None:
    """With every comment sign of an option taken away, the file means the same."""
    file = tmp_path / "run.yaml"
    before = init(file, "--base", "Qwen/Qwen2.5-7B-Instruct", "--gpu-memory", 80)
    names = [key.rpartition(".")[2] for key in fields_of(RunConfig)]
    groups = [name for name in RunConfig.model_fields if name not in names]
    lines = []
    for line in file.read_text().splitlines():
        bare = line.lstrip("# ")
        if bare.partition(":")[0] in (*names, *groups) and "#" in line:
            line = line.replace("# ", "", 1) if "# #" not in line else line
        lines.append(line)
    file.write_text("\n".join(lines))
    loaded = yaml.safe_load("\n".join(lines))
    assert len(loaded["evaluation"]) == 8
    assert len(loaded["training"]) == 20
    again = run_config(file, None, (), (), None, {}).value
    assert again.model_dump(exclude={"options"}) == before.model_dump(exclude={"options"})


@pytest.mark.parametrize(
    ("base", "memory", "method"),
    [
        ("Qwen/Qwen2.5-0.5B", 8, "lora"),
        ("Qwen/Qwen2.5-7B-Instruct", 12, "qlora"),
        ("Qwen/Qwen2.5-7B-Instruct", 24, "lora"),
        ("meta-llama/Llama-3.3-70B-Instruct", 80, "qlora"),
    ],
)
def test_the_method_is_qlora_where_16_bits_do_not_fit(
    tmp_path: Path, base: str, memory: int, method: str
) -> None:
    config = init(tmp_path / "run.yaml", "--base", base, "--gpu-memory", memory)
    assert config.method == method
    assert config.training.batch_size * config.training.accumulation == 32


def test_more_memory_makes_larger_micro_batches_of_the_same_effective_size(tmp_path: Path) -> None:
    sizes = [
        init(tmp_path / f"{memory}.yaml", "--base", "x/Y-7B", "--gpu-memory", memory).training
        for memory in (8, 12, 48, 80)
    ]
    assert [s.batch_size for s in sizes] == sorted(s.batch_size for s in sizes)
    assert sizes[0].batch_size < sizes[-1].batch_size
    assert {s.batch_size * s.accumulation for s in sizes} == {32}
    assert all(s.gradient_checkpointing for s in sizes)


def test_rates_fall_as_models_grow_and_alpha_is_twice_the_rank(tmp_path: Path) -> None:
    sizes = ("30M", "500M", "3B", "14B")
    found = [
        init(tmp_path / f"{size}.yaml", "--base", f"x/Y-{size}", "--gpu-memory", 80)
        for size in sizes
    ]
    rates = [config.training.learning_rate or 0 for config in found]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 4
    assert all(config.lora.alpha == 2 * config.lora.r for config in found)


@pytest.mark.parametrize(("kind", "rank", "length"), [("sft", 16, 1024), ("pair", 8, 256)])
def test_the_task_sets_rank_and_length(tmp_path: Path, kind: str, rank: int, length: int) -> None:
    given = ("--task", kind, "--base", "x/Y-1B", "--gpu-memory", 24)
    config = init(tmp_path / "run.yaml", *given)
    assert (config.task.kind, config.lora.r, config.data.max_length) == (kind, rank, length)


def test_an_encoder_gets_a_head(tmp_path: Path) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    (base / "config.json").write_text(
        '{"architectures": ["BertModel"], "model_type": "bert", "num_hidden_layers": 2}'
    )
    given = ("--task", "classify", "--base", base, "--gpu-memory", 8)
    config = init(tmp_path / "run.yaml", *given)
    assert config.task.way == "head"


def test_a_file_that_is_there_is_never_written_over_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("mine")
    given = ("init", "--base", "x/Y-1B", "--gpu-memory", 8, "--output", file)
    refused = adapters(*given)
    assert refused.code == 2
    assert "--force" in refused.err
    assert file.read_text() == "mine"
    done(*given, "--force")
    assert file.read_text() != "mine"


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("--base", "x/Y-70B", "--gpu-memory", 8), 4, "even in 4 bits"),
        (("--base", "./nowhere"), 2, "no directory './nowhere'"),
        (("--base", "org/model", "--gpu-memory", 8), 2, "--parameters"),
        (("--base", "org/model", "--parameters", "big", "--gpu-memory", 8), 2, "no size such as"),
        (("--base", "x/Y-1B", "--name", "a/b", "--gpu-memory", 8), 2, "a/b"),
    ],
)
def test_what_cannot_be_begun_is_a_sentence(
    tmp_path: Path, given: tuple[object, ...], code: int, words: str
) -> None:
    refused = adapters("init", "--output", tmp_path / "run.yaml", *given)
    assert refused.code == code
    assert words in refused.err
    assert not (tmp_path / "run.yaml").exists()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5e9),
        ("HuggingFaceTB/SmolLM2-135M", 135e6),
        ("mistralai/Mistral-7B-v0.3", 7e9),
        ("bert-base-uncased", None),
        ("org/v2.5-model", None),
    ],
)
def test_names_tell_sizes(name: str, count: float | None) -> None:
    assert parameters_in(name) == count


def test_what_init_wrote_is_planned_and_trained_as_it_is(tiny_base: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", rows(40))
    held_out = write_rows(tmp_path / "eval.jsonl", rows(9, start=60))
    file = tmp_path / "run.yaml"
    config = init(file, "--base", tiny_base, "--data", data, "--eval-data", held_out)
    plan = done("plan", file, "--json").json
    assert plan["data"]["rows"] == 40
    assert plan["steps"]["effective_batch"] == 32
    result = done(
        *("train", file, "--max-steps", 2, "--runs", tmp_path / "runs"),
        *("--registry", tmp_path / "registry", "--json"),
    ).json
    assert result["version"] == 1
    assert result["trainable_parameters"] == plan["adapter"]["trainable"]
    assert config.method == "lora"
