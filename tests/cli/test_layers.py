"""Where a run's values come from: flags > --set > environment > file > preset > default."""

from pathlib import Path

import pytest
import yaml

from adaptery.cli.run_options import FLAGS, run_config
from adaptery.config import Resolved
from adaptery.trainers.config import RunConfig
from adaptery.trainers.presets import PRESETS
from tests.cli.conftest import House
from tests.command import done

NEEDED = {"name": "a", "base": "b", "data__train": "d"}


def configured(
    file: Path | None = None,
    preset: str | None = None,
    assignments: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    **flags: str,
) -> Resolved[RunConfig]:
    return run_config(file, preset, assignments, options, None, NEEDED | flags)


def test_every_place_wins_over_the_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate() -> tuple[float | None, str | None]:
        resolved = configured(*given)
        key = "training.learning_rate"
        return resolved.value.training.learning_rate, resolved.origins.get(key)

    given: tuple[object, ...] = ()
    assert rate() == (None, None)
    given = (None, "tiny")
    assert rate() == (PRESETS["tiny"]["training"]["learning_rate"], "preset tiny")
    file = tmp_path / "run.yaml"
    file.write_text("training: {learning_rate: 3.0e-3}\n")
    given = (file, "tiny")
    assert rate() == (3e-3, f"file {file}")
    monkeypatch.setenv("ADAPTERS_TRAINING_LEARNING_RATE", "4e-3")
    assert rate() == (4e-3, "environment ADAPTERS_TRAINING_LEARNING_RATE")
    given = (file, "tiny", ("training.learning_rate=5e-3",))
    assert rate() == (5e-3, "--set")
    resolved = configured(*given, training__learning_rate="6e-3")
    assert resolved.value.training.learning_rate == 6e-3
    assert resolved.origins["training.learning_rate"] == "flag --learning-rate"


def test_what_a_higher_place_does_not_name_comes_from_below(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {seed: 5}\nlora: {r: 2}\n")
    resolved = configured(file, "large", training__epochs="1")
    training = resolved.value.training
    assert (training.seed, training.epochs, training.batch_size) == (5, 1, 2)
    assert resolved.value.lora.r == 2
    assert resolved.origins["training.batch_size"] == "preset large"
    assert "lora.alpha" not in resolved.origins


def test_a_methods_options_come_from_file_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("options: {ratio: 2, settle: 0.2}\n")
    resolved = configured(file, options=("ratio=4",))
    assert resolved.value.options == {"ratio": 4, "settle": 0.2}
    assert resolved.origins["options.ratio"] == "--option"
    assert resolved.origins["options.settle"] == f"file {file}"


VALUES = {
    "--name": ("other", "other"),
    "--base": ("org/other", "org/other"),
    "--revision": ("abc", "abc"),
    "--data": ("x.jsonl", "x.jsonl"),
    "--eval-data": ("y.jsonl", "y.jsonl"),
    "--method": ("qlora", "qlora"),
    "--task": ("classify", "classify"),
    "--rank": ("3", 3),
    "--alpha": ("5", 5.0),
    "--targets": ("q_proj,v_proj", ("q_proj", "v_proj")),
    "--epochs": ("0.5", 0.5),
    "--max-steps": ("7", 7),
    "--learning-rate": ("1e-4", 1e-4),
    "--batch-size": ("9", 9),
    "--max-length": ("77", 77),
    "--seed": ("13", 13),
    "--runs": ("elsewhere", Path("elsewhere")),
    "--report-to": ("tensorboard", ("tensorboard",)),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_sets_its_option(bare: House, flag: str, monkeypatch) -> None:
    """Through the command itself, which is stopped where the run would begin."""
    seen: list[RunConfig] = []

    class Enough(Exception):
        pass

    def stop(config: Resolved[RunConfig], *_: object) -> None:
        seen.append(config.value)
        raise Enough

    monkeypatch.setattr("adaptery.cli.train.run", stop)
    text, value = VALUES[flag]
    with pytest.raises(Enough):
        done(*bare.train("--name", "colours", flag, text))
    found: object = seen[0]
    for part in FLAGS[flag].split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize("targets", ["attention", "mlp", "q_proj,v_proj"])
def test_targets_may_be_a_group_or_names(bare: House, targets: str) -> None:
    result = done(*bare.train("--targets", targets, "--no-publish", "--json")).json
    config = yaml.safe_load((Path(result["adapter"]) / "adapter_config.json").read_text())
    wanted = {
        "attention": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "mlp": ["down_proj", "gate_proj", "up_proj"],
        "q_proj,v_proj": ["q_proj", "v_proj"],
    }
    assert config["target_modules"] == wanted[targets]


def test_a_run_directory_tells_origins_and_runs_again_the_same(bare: House) -> None:
    (bare.root / "run.yaml").write_text("training: {seed: 3}\n")
    first = done(*bare.train(bare.root / "run.yaml", "--json")).json
    written = Path(first["run"]) / "config.yaml"
    text = written.read_text()
    assert f"# training.seed: file {bare.root / 'run.yaml'}\n" in text
    assert "# lora.r: flag --rank\n" in text
    assert "# training.precision: --set\n" in text
    again = done("train", written, "--json", *bare.at).json
    assert again["digest"] == first["digest"]
    assert again["version"] == 1
