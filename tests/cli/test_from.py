"""`adapters train --from REF`: the same training again, and what is said of its result."""

import json
import shutil
from pathlib import Path

import pytest

from adaptery.cli.context import open_registry
from adaptery.trainers import record
from adaptery.types import AdapterPackage, AdapterRef
from tests.cli.conftest import House
from tests.command import Outcome, adapters, done
from tests.models import write_rows
from tests.trainers.runs import rows


def again(house: House, *more: object) -> Outcome:
    return adapters(
        *("train", "--from", "colours@1", "--data", house.root / "train.jsonl"),
        *("--eval-data", house.root / "eval.jsonl", "--runs", house.root / "runs", *house.at),
        *more,
    )


def test_the_same_rows_on_the_same_machine_give_the_same_version(house: House) -> None:
    outcome = again(house, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["same"] is True
    assert outcome.json["agreement"] == "manifest"
    assert outcome.json["differences"] == []
    assert outcome.json["version"] == 1, "and what is there already is not published again"
    assert len(done("list", "colours", "--json", *house.at).json) == 2


def test_people_are_told_in_a_sentence(house: House) -> None:
    outcome = again(house, "--no-publish")
    assert outcome.code == 0
    assert outcome.out == "The same: manifest and every file have the digests of colours@1.\n"


def test_another_seed_is_told_with_the_largest_difference_of_weights(house: House) -> None:
    outcome = again(house, "--seed", 5, "--json")
    assert outcome.code == 5
    told = outcome.json
    assert told["same"] is False
    assert told["agreement"] == "different"
    assert told["largest_weight_difference"] > 1e-4
    fields = {
        change["field"]: (change["before"], change["after"]) for change in told["differences"]
    }
    assert fields["seed"] == (0, 5)
    assert fields["config.training.seed"] == (0, 5)
    assert len(done("list", "colours", "--json", *house.at).json) == 2, "and is not published"
    assert "what came out is in" in outcome.err


def test_other_rows_are_refused_with_both_digests(house: House) -> None:
    other = write_rows(house.root / "other.jsonl", rows(23))
    outcome = again(house, "--data", other)
    recorded = done("show", "colours@1", "--json", *house.at).json["manifest"]["data_digest"]
    assert outcome.code == 3
    assert recorded in outcome.err
    assert outcome.err.count("digest") == 1
    assert str(other) in outcome.err
    assert not (house.root / "runs").exists()


def test_other_held_out_rows_are_refused(house: House) -> None:
    other = write_rows(house.root / "other.jsonl", rows(8, start=60))
    outcome = again(house, "--eval-data", other)
    assert outcome.code == 3
    assert "data.eval" in outcome.err


def test_rows_that_are_not_given_are_asked_for(house: House) -> None:
    outcome = adapters("train", "--from", "colours@1", *house.at)
    assert outcome.code == 2
    assert "'train.jsonl'" in outcome.err
    assert "--data" in outcome.err


def test_another_package_version_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = record.package_versions() | {"torch": "1.0"}
    monkeypatch.setattr(record, "package_versions", lambda: versions)
    outcome = again(house, "--no-publish", "--json")
    assert outcome.code == 0, "for the files are the same"
    assert outcome.json["agreement"] == "files"
    (change,) = outcome.json["differences"]
    assert (change["field"], change["after"]) == ("packages.torch", "1.0")


def test_threads_and_processor_are_recorded(house: House) -> None:
    manifest = done("show", "colours@1", "--json", *house.at).json["manifest"]
    arithmetic = manifest["config"]["arithmetic"]
    assert arithmetic.keys() == {"dtype", "processor", "threads"}
    assert arithmetic["dtype"] == "float32"


def test_the_base_may_be_elsewhere_and_must_be_the_same(house: House, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(house.base, tmp_path / "moved"))
    outcome = again(house, "--base", moved, "--no-publish", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["agreement"] == "base name"
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    refused = again(house, "--base", moved)
    assert refused.code == 2
    assert "was trained on" in refused.err


def test_an_option_of_the_method_is_repeated(house: House) -> None:
    held_out = house.root / "eval.jsonl"
    more = ("--method", "loraplus", "--option", "ratio=4", "--name", "plus")
    done(*house.train("--eval-data", held_out, *more))
    outcome = again(house, "--from", "plus", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["agreement"] == "manifest"


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_a_classifier_is_repeated_with_its_words_and_question(house: House, kind: str) -> None:
    path = house.root / "letters.jsonl"
    if kind == "texts":
        found = [{"text": f"the sky {n}", "label": "ab"[n % 2]} for n in range(12)]
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        asked = ("system", "a or b?")
        chats = [[asked, ("user", f"{n}"), ("assistant", "ab"[n % 2])] for n in range(12)]
        write_rows(path, chats)
    done(*house.train("--name", "letters", "--data", path, "--task", "classify"))
    outcome = again(house, "--from", "letters", "--data", path, "--eval-data", path, "--json")
    assert outcome.code == 2
    assert "without held-out rows: leave out --eval-data" in outcome.err
    outcome = adapters(
        *("train", "--from", "letters", "--data", path, "--runs", house.root / "runs", "--json"),
        *house.at,
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["agreement"] == "manifest"


def test_a_version_without_a_recorded_training_cannot_be_repeated(house: House) -> None:
    store = open_registry(str(house.registry))
    version = store.resolve(AdapterRef.parse("colours@1"))
    bare = version.manifest.model_copy(update={"config": {}})
    store.publish("foreign", AdapterPackage(store.materialize(version), bare))
    outcome = again(house, "--from", "foreign")
    assert outcome.code == 2
    assert "records no training" in outcome.err


@pytest.mark.parametrize("more", [("run.yaml",), ("--preset", "tiny"), ("--resume", "x")])
def test_no_other_configuration_is_taken_beside_it(house: House, more: tuple[str, ...]) -> None:
    outcome = again(house, *more)
    assert outcome.code == 2
    assert "--from takes the configuration" in outcome.err
