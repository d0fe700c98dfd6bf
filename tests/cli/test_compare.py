"""`adapters compare`: versions side by side, and what could be chance."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import House
from tests.command import Outcome, adapters, done


def compared(house: House, *arguments: object) -> Outcome:
    return done("compare", *arguments, "--data", house.root / "test.jsonl", *house.at)


def test_versions_and_the_base_are_measured_on_the_same_rows(pairs: House) -> None:
    found = compared(pairs, "words@1", "words@2", "head", "--json").json
    assert list(found["metrics"]) == ["words@1", "words@2", "head@1", "base"]
    for ref in ("words@1", "words@2", "head@1"):
        alone = done("eval", ref, "--data", pairs.root / "test.jsonl", "--json", *pairs.at).json
        assert found["metrics"][ref] == alone["metrics"]
    assert list(found["differences"]) == ["words@1", "base"]
    assert list(found["differences"]["words@1"]) == ["words@2", "head@1", "base"]


def test_differences_have_intervals_and_a_verdict_and_turn_round(pairs: House) -> None:
    found = compared(pairs, "words@1", "words@2", "--json").json
    metrics, differences = found["metrics"], found["differences"]
    for name, one in differences["words@1"]["words@2"].items():
        gain = metrics["words@2"][name] - metrics["words@1"][name]
        assert one["value"] == pytest.approx(gain)
        assert one["low"] <= one["high"]
        chance = one["low"] <= 0 <= one["high"]
        assert (one["verdict"] == "no difference") is chance
    there = differences["words@1"]["base"]["loss"]
    back = differences["base"]["words@1"]["loss"]
    assert (there["value"], there["low"], there["high"]) == pytest.approx(
        (-back["value"], -back["high"], -back["low"])
    )


def test_the_base_may_be_named_and_come_first(pairs: House) -> None:
    found = compared(pairs, "base", "words", "--json").json
    assert list(found["metrics"]) == ["base", "words@1"]
    assert list(found["differences"]) == ["base"]


def test_the_base_can_be_left_out(pairs: House) -> None:
    found = compared(pairs, "words@1", "words@2", "--no-base", "--json").json
    assert list(found["metrics"]) == ["words@1", "words@2"]


def test_seed_and_samples_are_obeyed(pairs: House) -> None:
    def loss(*more: object) -> dict[str, float]:
        found = compared(pairs, "words@1", "words@2", "--no-base", "--json", *more).json
        return found["differences"]["words@1"]["words@2"]["loss"]

    assert loss() == loss("--seed", 0, "--resamples", 2000)
    assert loss("--seed", 1) != loss()
    assert loss("--resamples", 100) != loss()


def test_tables_for_people_and_for_reports(pairs: House) -> None:
    plain = compared(pairs, "words@1", "words@2", "--metrics", "accuracy").out.splitlines()
    assert plain[0].split() == ["model", "accuracy"]
    assert [line.split()[0] for line in plain[1:4]] == ["words@1", "words@2", "base"]
    assert "against words@1" in "\n".join(plain)
    marked = compared(pairs, "words@1", "words@2", "--metrics", "accuracy", "--markdown").out
    assert marked.splitlines()[:2] == ["| model | accuracy |", "|---|---:|"]
    assert "| against words@1 | metric | difference | verdict |" in marked


def test_calibrated_versions_decide_by_their_thresholds(pairs: House) -> None:
    done("tag", "words@2", "calibration.offsets=[99, 0]", *pairs.at)
    found = compared(pairs, "words@1", "words@2", "--json").json
    zeros = 14 / 21
    assert found["metrics"]["words@2"]["accuracy"] == pytest.approx(zeros)


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        (("base",), "at least one version"),
        (("head",), "only head@1"),
        (("words", "words@1"), "named twice"),
        (("base", "head"), "the base alone has none"),
        (("words", "nobody"), "nobody"),
        (("words", "words@9"), "words"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    pairs: House, refs: tuple[str, ...], message: str
) -> None:
    outcome = adapters("compare", *refs, "--data", pairs.root / "test.jsonl", *pairs.at)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_losses_per_token_of_different_tokenizers_are_warned_of(
    house: House, tmp_path: Path
) -> None:
    """By another base of the same family whose tokenizer knows two words more."""
    from tests.models import make_tokenizer

    other = Path(shutil.copytree(house.base, tmp_path / "other"))
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["skies"])
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    tokenizer.save_pretrained(other)
    done(
        *house.train("--name", "second", "--base", other, "--eval-data", house.root / "eval.jsonl")
    )
    data = ("--data", house.root / "eval.jsonl", "--metrics", "loss", "--no-base")
    outcome = done("compare", "colours@1", "second", *data, *house.at)
    assert "different tokenizers" in outcome.err
    same = done("compare", "colours@1", "colours@2", *data, *house.at)
    assert "different tokenizers" not in same.err
