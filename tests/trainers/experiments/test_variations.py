from pathlib import Path

import pytest

from adaptery.config import Layer, Resolved, resolve
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.variations import (
    changed,
    digest_of,
    methods,
    ranks,
    rates,
    targets,
    weights,
)

Config = Resolved[RunConfig]
OWN = {"lora": 2e-4, "full": 2e-5, "loraplus": 5e-5}


def test_what_is_changed_is_replaced_and_the_rest_stays(config: Config) -> None:
    first = changed(config, {"options": {"ratio": 4}, "lora.r": 8}, "test")
    second = changed(first, {"options": {}}, "test")
    assert first.value.options == {"ratio": 4}
    assert second.value.options == {}
    assert second.value.lora.r == 8
    assert second.value.training == config.value.training
    assert second.origins["lora.r"] == "test"


def test_a_value_that_is_not_allowed_is_named_with_its_variation(config: Config) -> None:
    (row,) = ranks(config.value, [0], "kept")
    with pytest.raises(ConfigError, match=r"'lora.r' cannot be 0 \(from variation r=0\)"):
        row.settings(config, 0)


def test_a_methods_rate_is_the_configured_one_times_the_ratio_of_their_own(config: Config) -> None:
    rows = methods(config.value, list(OWN), OWN, {})
    assert [row.changes["training.learning_rate"] for row in rows] == [1e-3, 1e-4, 2.5e-4]
    assert [row.shown["rate"] for row in rows] == ["0.001", "0.0001", "0.00025"]


def test_a_rate_that_is_given_wins(config: Config) -> None:
    rows = methods(config.value, ["lora", "full"], OWN, {"full": 3e-4})
    assert [row.changes["training.learning_rate"] for row in rows] == [1e-3, 3e-4]


def test_without_a_configured_rate_methods_have_their_own(config: Config) -> None:
    bare = changed(config, {"training.learning_rate": None}, "test").value
    rows = methods(bare, ["lora", "full"], OWN, {})
    assert [row.changes["training.learning_rate"] for row in rows] == [2e-4, 2e-5]


def test_only_the_configured_method_keeps_its_options(config: Config) -> None:
    own = changed(config, {"method": "loraplus", "options": {"ratio": 4}}, "test").value
    rows = {row.name: row.changes["options"] for row in methods(own, list(OWN), OWN, {})}
    assert rows == {"lora": {}, "full": {}, "loraplus": {"ratio": 4}}


def test_alpha_is_scaled_with_the_rank_or_kept(config: Config) -> None:
    scaled = [row.changes["lora.alpha"] for row in ranks(config.value, [4, 8, 32], "scaled")]
    kept = [row.changes["lora.alpha"] for row in ranks(config.value, [4, 8, 32], "kept")]
    assert scaled == [8, 16, 64]
    assert kept == [8, 8, 8]


def test_layers_are_groups_or_names(config: Config) -> None:
    rows = targets(["q_proj,v_proj", "mlp"])
    found = [row.settings(config, 0).value.lora.targets for row in rows]
    assert found == [("q_proj", "v_proj"), "mlp"]


def test_weights_are_none_auto_and_those_given(config: Config) -> None:
    pair = changed(config, {"task": {"kind": "pair"}}, "test")
    rows = weights(pair.value, [{"0": 3.0, "1": 1.0}])
    assert [row.name for row in rows] == ["none", "auto", "0=3, 1=1"]
    assert rows[2].settings(pair, 0).value.task.weights == {"0": 3.0, "1": 1.0}
    own = changed(pair, {"task.weights": {"0": 1.0, "1": 2.0}}, "test")
    assert [row.name for row in weights(own.value, [])] == ["none", "auto", "0=1, 1=2"]
    with pytest.raises(ConfigError, match=r"set task\.kind"):
        weights(config.value, [])


def test_rates_climb_around_the_configured_one(config: Config) -> None:
    names = [row.name for row in rates(config.value, [], 2e-4)]
    assert names == ["0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03"]
    assert [row.name for row in rates(config.value, [0.5], 2e-4)] == ["0.5"]


def test_a_digest_is_of_what_shapes_the_result(config: Config, tmp_path: Path) -> None:
    """Files count by what they hold, and neither name nor folder of a run does."""
    first = digest_of(config.value, "base")
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes((tmp_path / "train.jsonl").read_bytes())
    same = [{"name": "other"}, {"runs": "elsewhere"}, {"data.train": str(moved)}]
    same.append({"evaluation.baseline": False})
    assert {digest_of(changed(config, one, "").value, "base") for one in same} == {first}
    other = [{"lora.r": 5}, {"training.seed": 1}, {"evaluation.batch_size": 2}]
    assert first not in {digest_of(changed(config, one, "").value, "base") for one in other}
    assert digest_of(config.value, "another base") != first
    moved.write_text("other rows")
    assert digest_of(changed(config, same[2], "").value, "base") != first


def test_rows_that_cannot_be_read_are_named(config: Config) -> None:
    gone = changed(config, {"data.train": "gone.jsonl"}, "test")
    with pytest.raises(ConfigError, match=r"gone\.jsonl cannot be read"):
        digest_of(gone.value, "base")


def test_the_base_of_variations_is_not_touched(config: Config) -> None:
    before = config.value.model_dump()
    changed(config, {"lora.targets": "mlp", "data.columns": {"text": "t"}}, "test")
    assert config.value.model_dump() == before
    assert resolve(RunConfig, [Layer(before, {})]).value == config.value
