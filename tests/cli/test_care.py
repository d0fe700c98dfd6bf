"""`adapters verify`, `fsck` and `gc`."""

import os
from pathlib import Path

import pytest

from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.adapters import make_adapter
from tests.command import adapters, done


@pytest.fixture
def store(tmp_path, monkeypatch) -> LocalRegistry:
    """The registry that commands use, with two versions of `support`."""
    registry = LocalRegistry.open(str(tmp_path / "registry"))
    monkeypatch.setenv("ADAPTERS_REGISTRY", registry.url)
    for seed in (1, 2):
        registry.publish("support", make_adapter(tmp_path / str(seed), seed=seed))
    return registry


def weights(store, number) -> Path:
    version = store.resolve(AdapterRef("support", number=number))
    return store.materialize(version) / WEIGHTS


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_what_is_whole_is_said_to_be(store):
    assert done("verify", "--all").out == "Every byte has its digest.\n"
    assert done("verify", "support", "support@2").out == "Every byte has its digest.\n"
    assert done("fsck").out == "Nothing is wrong.\n"
    assert done("fsck", "--json").json == {"ok": True, "findings": []}


def test_a_damaged_file_is_named_and_ends_with_5(store):
    damage(weights(store, 2))
    for command in (["verify", "support@2"], ["verify", "--all"], ["fsck"]):
        outcome = adapters(*command)
        assert outcome.code == 5
        assert f"support@2: {WEIGHTS}" in outcome.out
        assert outcome.err.endswith("1 thing is not as it must be.\n")
    assert adapters("verify", "support@1").code == 0
    found = adapters("verify", "--all", "--json")
    assert (found.code, found.json["ok"]) == (5, False)
    assert found.json["findings"][0]["subject"] == f"support@2: {WEIGHTS}"


def test_repair_says_what_it_did_and_the_way_back(store):
    damage(weights(store, 2))
    outcome = done("fsck", "--repair")
    assert "quarantine" in outcome.out
    assert "publish or pull support@2 again" in outcome.out
    assert adapters("fsck").code == 5  # The bytes are still missing.


def test_verify_wants_references_or_all(store):
    for arguments in ([], ["support", "--all"]):
        outcome = adapters("verify", *arguments)
        assert outcome.code == 2
        assert "--all" in outcome.err


def test_collection_says_what_it_frees(store):
    blob = Path(store.url) / "blobs" / "sha256" / "ab" / ("ab" * 32)
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"x" * 1500)
    os.utime(blob, (1, 1))
    planned = done("gc", "--dry-run", "--json").json
    assert (planned["blobs"], planned["bytes"], planned["dry_run"]) == (1, 1500, True)
    assert blob.exists()
    assert done("gc").out.startswith("Freed 1.5 kB: 1 files that no version has")
    assert not blob.exists()


@pytest.mark.parametrize("grace", ["soon", "5", "-1h", "5 h", "1y", "", "nan"])
def test_a_grace_that_is_no_length_of_time_is_refused(store, grace):
    outcome = adapters("gc", "--grace", grace)
    assert outcome.code == 2
    assert "is not a length of time" in outcome.err
