import json
import string
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adaptery.errors import InvalidName
from adaptery.types import (
    AdapterRef,
    BaseIdentity,
    FileEntry,
    Manifest,
    RemoteRef,
    Version,
    canonical_json,
    check_alias,
    check_name,
)

NAME_CHARACTERS = string.ascii_lowercase + string.digits + "._-"
BASE = BaseIdentity(id="org/base", revision="main", digest="a" * 64)


def manifest(**changes: object) -> Manifest:
    file = FileEntry(path="adapter_config.json", size=2, sha256="0" * 64)
    return Manifest(**{"files": (file,), "base": BASE, "method": "lora"} | changes)


@pytest.mark.parametrize("name", ["a", "7", "support", "a.b", "a-b_c.d", "x" * 63])
def test_a_good_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "a b", "a/b", "..", "a..b", ".a", "a.", "-a", "a-", "_a", "a_", "é"),
        *("a\n", "x" * 64, "a@b", "a\0", "con:", "a\\b"),
    ],
)
def test_a_bad_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidName) as error:
        check_name(name)
    assert repr(name) in str(error.value)


@given(st.text(alphabet=NAME_CHARACTERS + "/\\ \nAé", max_size=70))
def test_no_accepted_name_can_leave_its_directory(name: str) -> None:
    try:
        check_name(name)
    except InvalidName:
        return
    assert 0 < len(name) <= 63
    assert set(name) <= set(NAME_CHARACTERS)
    assert ".." not in name
    assert name[0].isalnum()
    assert name[-1].isalnum()


@pytest.mark.parametrize("alias", ["live", "canary", "a", "a-1", "x" * 32])
def test_a_good_alias_is_taken(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize(
    "alias", ["", "latest", "v3", "3", "A", "a_b", "a-", "-a", "x" * 33, "a\n"]
)
def test_a_bad_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidName):
        check_alias(alias)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("support", AdapterRef("support", alias="live")),
        ("support@3", AdapterRef("support", number=3)),
        ("support@v3", AdapterRef("support", number=3)),
        ("support@latest", AdapterRef("support", alias="latest")),
        ("support@canary", AdapterRef("support", alias="canary")),
        ("support@sha256:1f2e3d4c", AdapterRef("support", digest="1f2e3d4c")),
    ],
)
def test_a_reference_is_read_and_written_back(text: str, ref: AdapterRef) -> None:
    assert AdapterRef.parse(text) == ref
    assert AdapterRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        *("", "@1", "a@", "a@0", "a@-1", "a@1.0", "a@01", "a@b@c", "a@3\n", "a@ 3", "a@１"),
        *("a@sha256:1f2e", "a@sha256:XYZ12345", "a@sha256:" + "a" * 65),
    ],
)
def test_a_broken_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        AdapterRef.parse(text)


@pytest.mark.parametrize(
    ("text", "registry", "ref"),
    [
        ("hf://org/support@v3", "hf://org", AdapterRef("support", number=3)),
        ("hf://org/support", "hf://org", AdapterRef("support", alias="live")),
        ("hf://My-Org/support@canary", "hf://My-Org", AdapterRef("support", alias="canary")),
    ],
)
def test_a_remote_reference_names_registry_and_version(
    text: str, registry: str, ref: AdapterRef
) -> None:
    remote = RemoteRef.parse(text)
    assert (remote.registry, remote.ref) == (registry, ref)
    assert str(remote) == text


@pytest.mark.parametrize(
    "text",
    ["support", "hf://org", "hf://org/a/b", "s3://org/a", "hf:///a", "hf://../a", "hf://o/.."],
)
def test_a_broken_remote_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        RemoteRef.parse(text)


def test_a_manifest_comes_back_from_its_canonical_bytes_with_the_same_digest() -> None:
    before = manifest(metrics={"loss": 0.1, "accuracy": 1.0}, config={"b": [1, None], "a": "é"})
    after = Manifest.model_validate_json(before.canonical())
    assert after == before
    assert after.digest == before.digest


def test_the_order_of_keys_does_not_change_a_digest() -> None:
    one = manifest(metrics={"a": 1.0, "b": 2.0}, packages={"torch": "1", "peft": "2"})
    other = manifest(metrics={"b": 2.0, "a": 1.0}, packages={"peft": "2", "torch": "1"})
    assert one.digest == other.digest


@pytest.mark.parametrize(
    "change",
    [
        {"method": "qlora"},
        {"seed": 0},
        {"metrics": {"loss": 0.5}},
        {"config": {"r": 1}},
        {"base": BASE.model_copy(update={"digest": "b" * 64})},
        {"files": ()},
    ],
)
def test_every_field_counts_in_the_digest(change: dict[str, object]) -> None:
    assert manifest(**change).digest != manifest().digest


def test_the_digest_is_the_same_whatever_the_hash_seed() -> None:
    program = (
        "from tests.test_types import manifest;"
        "print(manifest(metrics={'b': 1.0, 'a': 2.0}, config={'z': {'y': 1, 'x': 2}}).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"unknown": 1},
        {"metrics": {"loss": float("nan")}},
        {"metrics": {"loss": float("inf")}},
        {"base": {"id": "b", "digest": "short"}},
        {"files": ({"path": "../x", "size": 1, "sha256": "0" * 64},)},
        {"files": ({"path": "a/b", "size": 1, "sha256": "0" * 64},)},
        {"files": ({"path": ".hidden", "size": 1, "sha256": "0" * 64},)},
        {"files": ({"path": "a", "size": -1, "sha256": "0" * 64},)},
        {"files": ({"path": "a", "size": 1, "sha256": "A" * 64},)},
        {"files": ({"path": "a\n", "size": 1, "sha256": "0" * 64},)},
        {"schema_version": 2},
        {"config": {"rate": float("nan")}},
    ],
)
def test_a_broken_manifest_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        manifest(**broken)


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        manifest().method = "other"


def test_canonical_json_refuses_what_json_does_not_have() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
        ),
        max_leaves=10,
    )
)
def test_canonical_json_is_a_fixed_point(value: object) -> None:
    once = canonical_json(value)
    assert canonical_json(json.loads(once)) == once


def test_engines_see_a_name_that_only_this_version_has() -> None:
    one, two = (manifest(seed=seed) for seed in (1, 2))
    versions = [Version("a", 1, m, m.digest, datetime.now(UTC), "me") for m in (one, two)]
    assert versions[0].engine_name == f"a@{one.digest[:12]}"
    assert versions[0].engine_name != versions[1].engine_name
    assert str(versions[0]) == "a@1"
