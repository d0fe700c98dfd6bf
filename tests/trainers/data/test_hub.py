"""Data sets on the Hub, through the real client and a peer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptery.errors import DataError
from adaptery.trainers.data.hub import LARGE, HubSource
from tests.trainers.data.datasets_peer import DatasetsPeer, parquet

NAMED = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': bad, '1': good}
---
"""
HUGE = f"""---
dataset_info:
  features:
  - {{name: text, dtype: string}}
  - {{name: label, dtype: int64}}
  splits:
  - {{name: train, num_bytes: {LARGE + 1}, num_examples: 7}}
---
"""


def labelled(count: int) -> list[dict[str, Any]]:
    return [{"text": f"{count} texts: {n}", "label": n % 2} for n in range(count)]


REPOS = {
    "org/small": {
        "data/train-00000-of-00001.parquet": parquet(labelled(5)),
        "data/validation-00000-of-00001.parquet": parquet(labelled(3)),
    },
    "org/named": {"README.md": NAMED.encode(), "train.parquet": parquet(labelled(4))},
    "org/huge": {"README.md": HUGE.encode(), "data/train.parquet": parquet(labelled(7))},
    "org/lines": {"train.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in labelled(6))},
}
FOUND = {
    "hf://org/small": 5,
    "hf://datasets/org/small@main:validation": 3,
    "hf://org/named": 4,
    "hf://org/huge": 7,
    "hf://org/lines": 6,
}
MISSING = {
    "hf://org/small:test": "no split 'test'; there are: train, validation",
    "hf://org/nowhere": "org/nowhere",
    "hf://org": "write hf://ORG/NAME",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One `adapters data check` of all of them, in a process whose endpoint is the peer."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "adaptery.cli", "data", "check", *FOUND, *MISSING, "--json"]
    with DatasetsPeer(REPOS) as peer:
        environment = os.environ | {"HF_ENDPOINT": peer.url, "HF_HOME": str(home)}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 3, run.stderr
    assert "Traceback" not in run.stderr
    cached = {path.parts[len(home.parts) + 1] for path in home.rglob("*.arrow")}
    return json.loads(run.stdout) | {"cached": cached, "stderr": run.stderr}


def test_splits_are_read_by_name_and_revision(told: dict[str, Any]) -> None:
    assert {file["source"]: file["rows"] for file in told["files"]} == FOUND
    assert {file["format"] for file in told["files"]} == {"text-label"}


def test_classes_have_their_names(told: dict[str, Any]) -> None:
    classes = {file["source"]: file["classes"] for file in told["files"]}
    assert classes["hf://org/named"] == {"bad": 2, "good": 2}
    assert classes["hf://org/small"] == {"0": 3, "1": 2}


def test_a_large_split_is_streamed_and_stored_nowhere(told: dict[str, Any]) -> None:
    assert told["cached"] == {"org___small", "org___named", "org___lines"}


def test_what_cannot_be_had_is_a_sentence_each(told: dict[str, Any]) -> None:
    errors = [finding["message"] for finding in told["findings"] if finding["severity"] == "error"]
    for source, reason in MISSING.items():
        assert any(source in message and reason in message for message in errors), source


def test_no_bar_of_another_library_is_drawn(told: dict[str, Any]) -> None:
    assert "examples/s" not in told["stderr"]


def test_every_part_of_a_source_is_understood() -> None:
    found = HubSource.parse("hf://nyu-mll/glue/mrpc@refs/convert/parquet:validation")
    assert found == HubSource("nyu-mll/glue", "mrpc", "refs/convert/parquet", "validation")
    assert HubSource.parse("hf://datasets/o/n") == HubSource("o/n", None, None, "train")


@pytest.mark.parametrize("source", ["hf://", "hf://o", "hf://o/n:", "hf://o/n@", "hf://o/../../n"])
def test_what_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(DataError, match="ORG/NAME"):
        HubSource.parse(source)


def test_a_directory_of_that_name_is_not_read_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.trainers.data.reading import complaint

    (tmp_path / "org" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "is a path here" in complaint("hf://org/small")
