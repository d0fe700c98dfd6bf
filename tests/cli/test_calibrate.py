"""`adapters calibrate`: thresholds that stay with a version and can be taken away."""

import pytest

from adaptery.registry.local import LocalRegistry
from tests.cli.conftest import House
from tests.command import Outcome, adapters, done
from tests.models import write_pairs


def calibrated(house: House, *arguments: object, data: str = "val.jsonl") -> Outcome:
    return done("calibrate", *arguments, "--data", house.root / data, *house.at)


def evaluated(house: House, ref: str, data: str = "test.jsonl") -> Outcome:
    return done("eval", ref, "--data", house.root / data, "--json", *house.at)


@pytest.mark.parametrize("ref", ["words@1", "head@1"])
def test_thresholds_are_stored_as_an_event_and_decide_from_then_on(pairs: House, ref: str) -> None:
    name = ref.partition("@")[0]
    before = evaluated(pairs, ref, "val.jsonl").json
    found = calibrated(pairs, ref, "--json").json
    assert found["stored"] is True
    assert found["before"] == before["metrics"]["macro_f1"]
    after = evaluated(pairs, ref, "val.jsonl")
    assert after.json["offsets"] == found["offsets"]
    assert after.json["metrics"]["macro_f1"] == pytest.approx(found["after"])
    assert after.json["metrics"]["loss"] == before["metrics"]["loss"]
    assert found["after"] >= found["before"]
    assert "thresholds of" in after.err  # these rows are those it was calibrated on
    assert "thresholds of" not in evaluated(pairs, ref).err
    event = LocalRegistry.open(str(pairs.registry)).history(name)[-1]
    assert event.kind == "tagged"
    assert event.data["calibration.metric"] == "macro_f1"
    assert event.data["calibration.data"] == before["data"]["digest"]


def test_a_tag_taken_away_takes_the_thresholds_away(pairs: House) -> None:
    before = evaluated(pairs, "words").json
    done("tag", "words", "calibration.offsets=[5.0, 0.0]", *pairs.at)
    moved = evaluated(pairs, "words").json
    assert moved["offsets"] == {"0": 5.0, "1": 0.0}
    done("tag", "words", "calibration.offsets=", *pairs.at)
    after = evaluated(pairs, "words").json
    assert after["metrics"] == before["metrics"]
    assert after["offsets"] is None


def test_a_dry_run_changes_nothing(pairs: House) -> None:
    before = LocalRegistry.open(str(pairs.registry)).history("words")
    outcome = calibrated(pairs, "words", "--dry-run")
    assert LocalRegistry.open(str(pairs.registry)).history("words") == before
    assert "Stored" not in outcome.err
    assert "rows left out" in outcome.out
    assert "wins where its score is more than" in outcome.out


def test_it_says_how_to_undo_and_whether_it_is_worth_it(pairs: House) -> None:
    outcome = calibrated(pairs, "words@2")
    assert "adapters tag words@2 calibration.offsets=" in outcome.err
    assert "could be chance" in outcome.out or "hardly chance" in outcome.out


def test_the_metric_and_the_grid_can_be_chosen(pairs: House) -> None:
    found = calibrated(pairs, "words", "--metric", "accuracy", "--grid=-1,1,0.5", "--json").json
    assert found["metric"] == "accuracy"
    assert found["delta"] in (-1, -0.5, 0, 0.5, 1)


def test_a_calibration_that_was_written_by_hand_and_wrong_is_refused(pairs: House) -> None:
    done("tag", "words", "calibration.offsets=[1]", *pairs.at)
    outcome = adapters("eval", "words", "--data", pairs.root / "test.jsonl", *pairs.at)
    assert outcome.code == 5
    assert "no list of 2 numbers" in outcome.err
    assert calibrated(pairs, "words", "--json").json["stored"]  # which mends it


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--grid", "3,-3,1"), 2, "no grid"),
        (("--metric", "bleu"), 2, "metric to calibrate by 'bleu'"),
        (("--data", "train.jsonl"), 3, "was trained on"),
        (("--data", "one.jsonl"), 3, "are of the class '1'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    pairs: House, arguments: tuple[str, ...], code: int, message: str
) -> None:
    rows = write_pairs(pairs.root / "some.jsonl", 9, start=300).read_text().splitlines()
    ones = [row for row in rows if '"label": 1' in row]
    (pairs.root / "one.jsonl").write_text("\n".join(ones))
    files = ("train.jsonl", "one.jsonl")
    given = [pairs.root / a if a in files else a for a in arguments]
    data = () if "--data" in arguments else ("--data", pairs.root / "val.jsonl")
    outcome = adapters("calibrate", "words", *given, *data, *pairs.at)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


def test_a_version_that_tells_no_classes_is_refused(house: House) -> None:
    outcome = adapters("calibrate", "colours", "--data", house.root / "eval.jsonl", *house.at)
    assert outcome.code == 2
    assert "not trained to tell classes" in outcome.err
