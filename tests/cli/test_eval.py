"""`adapters eval`: what a version is worth on rows, beside the base."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import House
from tests.command import Outcome, adapters, done
from tests.models import write_pairs


def evaluated(house: House, *arguments: object, data: str = "test.jsonl") -> Outcome:
    return done("eval", *arguments, "--data", house.root / data, *house.at)


def test_what_training_reported_is_measured_again_with_no_difference(pairs: House) -> None:
    manifest = done("show", "words@1", "--json", *pairs.at).json["manifest"]
    found = evaluated(pairs, "words@1", "--json", data="val.jsonl").json
    for name, score in found["metrics"].items():
        assert score == manifest["metrics"][name]
        beside = found["baseline"]["metrics"][name]
        assert beside == pytest.approx(manifest["metrics"][f"base.{name}"], rel=1e-6)
    assert found["reported"] == manifest["metrics"]
    assert found["data"]["rows"] == 18
    assert found["data"]["digest"] == manifest["config"]["held_out_digest"]


def test_a_table_shows_score_baseline_and_difference(pairs: House) -> None:
    outcome = evaluated(pairs, "words", "--metrics", "accuracy,f1,loss")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["metric", "words@1", "base", "difference"]
    assert [line.split()[0] for line in lines[1:4]] == ["accuracy", "f1", "loss"]
    assert "[" in lines[1]
    assert "true \\ told" in outcome.out
    assert "AUC" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("f1 is ")
    assert "in training" not in outcome.out


def test_json_has_all_of_it(pairs: House) -> None:
    found = evaluated(
        pairs, "words", "--json", "--metrics", "loss,perplexity,accuracy,f1,bleu,rouge"
    ).json
    assert list(found["metrics"]) == ["loss", "perplexity", "accuracy", "f1", "bleu", "rouge"]
    assert found["differences"].keys() == found["metrics"].keys()
    for name, difference in found["differences"].items():
        gain = found["metrics"][name] - found["baseline"]["metrics"][name]
        assert difference["value"] == pytest.approx(gain)
        assert difference["low"] <= difference["high"]
    assert found["verdict"]["grade"] in ("effective", "limited", "none")
    assert sum(sum(row) for row in found["classes"]["confusion"]) == 21
    assert found["classes"]["labels"] == ["0", "1"]
    assert found["classes"]["overlaps"][0]["label"] == "1"
    assert found["offsets"] is None
    assert found["reported"] is None


def test_another_version_can_be_the_baseline(pairs: House) -> None:
    found = evaluated(pairs, "words@2", "--baseline", "words@1", "--json").json
    alone = evaluated(pairs, "words@1", "--baseline", "none", "--json").json
    assert found["baseline"] == {"name": "words@1", "metrics": alone["metrics"]}
    assert (alone["baseline"], alone["verdict"], alone["differences"]) == (None, None, {})
    itself = adapters(
        "eval", "words", "--baseline", "words@1", "--data", pairs.root / "test.jsonl", *pairs.at
    )
    assert itself.code == 2
    assert "its own baseline" in itself.err


def test_a_head_has_no_base_to_be_held_against(pairs: House) -> None:
    outcome = evaluated(pairs, "head")
    assert "There is no baseline" in outcome.err
    assert outcome.out.splitlines()[0].split() == ["metric", "head@1"]
    asked = adapters(
        "eval", "head", "--baseline", "base", "--data", pairs.root / "test.jsonl", *pairs.at
    )
    assert asked.code == 2
    assert "the base alone has none" in asked.err
    against = evaluated(pairs, "head", "--baseline", "words", "--json").json
    assert against["baseline"]["name"] == "words@1"


def test_every_rows_answer_can_be_kept(pairs: House, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    found = evaluated(pairs, "words", "--output", output, "--json").json
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 21
    right = sum(row["answer"] == row["reference"] for row in rows)
    assert found["metrics"]["accuracy"] == pytest.approx(right / 21)
    assert sum(row["loss"] for row in rows) / 21 == pytest.approx(found["metrics"]["loss"])
    assert rows[0].keys() >= {"origin", "scores", "tokens", "baseline"}
    assert rows[4]["origin"].endswith("test.jsonl:5")
    assert rows[0]["scores"].keys() == {"0", "1"}


def test_rows_that_were_trained_on_are_warned_of(pairs: House) -> None:
    outcome = evaluated(pairs, "words", "--json", data="train.jsonl")
    assert "what it remembers, not what it can do" in outcome.err
    assert outcome.json["data"]["trained_on"] is True
    assert "remembers" not in evaluated(pairs, "words").err


def test_answers_that_are_generated_are_measured_too(house: House) -> None:
    found = evaluated(
        house, "colours", "--json", "--metrics", "accuracy,macro_f1,bleu", data="eval.jsonl"
    ).json
    shown = done("show", "colours@1", "--json", *house.at).json["manifest"]["metrics"]
    assert found["metrics"]["accuracy"] == shown["accuracy"]
    assert found["metrics"]["macro_f1"] == shown["macro_f1"]
    assert found["metrics"]["bleu"] >= 0
    assert found["classes"]["labels"] == ["blue", "red", "yellow"]


def test_the_base_may_lie_elsewhere(pairs: House, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(pairs.base, tmp_path / "moved")
    found = evaluated(pairs, "words", "--base", moved, "--json").json
    assert found["metrics"] == evaluated(pairs, "words", "--json").json["metrics"]


def refused(house: House, *arguments: object) -> Outcome:
    outcome = adapters("eval", *arguments, *house.at)
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    return outcome


@pytest.mark.parametrize("metrics", ["acuracy", "loss,acuracy", "perplexty", ","])
def test_an_unknown_metric_is_refused_before_anything_is_read(pairs: House, metrics: str) -> None:
    outcome = refused(pairs, "words", "--data", "not there.jsonl", "--metrics", metrics)
    guess = "perplexity" if metrics == "perplexty" else "accuracy"
    assert outcome.code == 2
    assert f"Did you mean {guess!r}" in outcome.err or "names no metric" in outcome.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\x00\x01", "test.jsonl"),
        ('{"text1": "a", "label": 1}\n', "fit no format"),
        ('{"text1": "a", "text2": "b", "label": 2}\n', "not among those learned"),
        ('{"text": "a", "label": 1}\n', "has 1 text"),
    ],
)
def test_bad_rows_are_refused_by_file_and_line(pairs: House, content: str, message: str) -> None:
    path = pairs.root / "test.jsonl"
    path.write_text(content)
    outcome = refused(pairs, "words", "--data", path)
    assert outcome.code == 3
    assert message in outcome.err


def test_what_is_not_there_is_refused(pairs: House, tmp_path: Path) -> None:
    data = ("--data", pairs.root / "test.jsonl")
    assert refused(pairs, "nobody", *data).code == 2
    assert refused(pairs, "words", "--data", tmp_path / "none.jsonl").code == 3
    assert refused(pairs, "words", *data, "--base", tmp_path).code == 2
    assert refused(pairs, "words", *data, "--format", "nonsense").code == 2
    outcome = refused(pairs, "words", *data, "--output", tmp_path / "no folder" / "rows.jsonl")
    assert (outcome.code, "There is no folder" in outcome.err) == (2, True)


def test_another_base_is_refused(pairs: House, tmp_path: Path) -> None:
    from tests.models import write_tiny_base

    other = write_tiny_base(tmp_path / "other", seed=8)
    outcome = refused(pairs, "words", "--data", pairs.root / "test.jsonl", "--base", other)
    assert outcome.code == 2
    assert "was trained on" in outcome.err


def test_rows_whose_columns_have_other_names_go_by_those_of_the_training(bare: House) -> None:
    rows = [
        json.loads(line) for line in write_pairs(bare.root / "p.jsonl", 24).read_text().splitlines()
    ]
    for name, some in (("train", rows[:18]), ("val", rows[18:])):
        lines = (
            json.dumps({"left": r["text1"], "text2": r["text2"], "label": r["label"]}) for r in some
        )
        (bare.root / f"{name}.jsonl").write_text("\n".join(lines))
    done(
        *bare.train(
            "--task",
            "pair",
            "--set",
            "data.columns={text1: left}",
            "--name",
            "named",
            "--set",
            "task.words={'0': a, '1': b}",
        )
    )
    assert evaluated(bare, "named", "--json", data="val.jsonl").json["data"]["rows"] == 6
