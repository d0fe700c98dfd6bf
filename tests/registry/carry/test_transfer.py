"""A version keeps its number, its digest and its bytes from one registry to another."""

import pytest

from adaptery.errors import Conflict, InvalidName, ReferenceNotFound
from adaptery.registry.carry.transfer import checked_out, copy_version, publish_version
from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def other(tmp_path):
    return LocalRegistry.open(str(tmp_path / "other"))


def test_there_and_back_it_is_the_same_version(local, hub, other, adapter):
    for seed in (1, 2):
        local.publish("support", adapter(seed))
    sent = copy_version(local, ref("support@2"), hub)
    pulled = copy_version(hub, ref("support@latest"), other)
    assert (sent.number, pulled.number) == (2, 2)
    original = local.resolve(ref("support@2"))
    assert original.digest == sent.digest == pulled.digest
    weights = (local.materialize(original) / WEIGHTS).read_bytes()
    assert (other.materialize(pulled) / WEIGHTS).read_bytes() == weights
    assert other.history("support")[0].reason == "copied from hf://org/support@2"


def test_copying_again_changes_nothing(local, other, adapter):
    local.publish("support", adapter(1))
    first = copy_version(local, ref("support"), other)
    assert copy_version(local, ref("support"), other) == first
    assert len(other.history("support")) == 1


def test_a_number_that_is_taken_says_how_to_keep_both(local, other, adapter):
    local.publish("support", adapter(1))
    other.publish("support", adapter(2))
    with pytest.raises(Conflict, match=r"support@1 is already another version.* Use --name"):
        copy_version(local, ref("support"), other)
    assert copy_version(local, ref("support"), other, "support-theirs").number == 1
    assert other.resolve(ref("support")).manifest.seed == 2


def test_a_reference_that_means_nothing_is_not_copied(local, other, adapter):
    local.publish("support", adapter(1))
    with pytest.raises(ReferenceNotFound):
        copy_version(local, ref("support@5"), other)
    assert list(other.versions()) == []


def test_what_others_read_does_not_say_where_our_registry_is(local, hub, adapter):
    local.publish("support", adapter(1), reason="a secret plan")
    copy_version(local, ref("support"), hub)
    assert hub.history("support")[0].reason == "copied from support@1"


def test_a_published_version_can_become_an_alias_at_once(local, hub, adapter):
    for seed in (1, 2):
        local.publish("support", adapter(seed))
        publish_version(local, ref(f"support@{seed}"), hub, alias="live", reason="go")
    assert [(e.kind, e.number, e.alias, e.reason) for e in hub.history("support")] == [
        ("published", 1, "live", "copied from support@1: go"),
        ("published", 2, None, "copied from support@2: go"),
        ("promoted", 2, "live", "go"),
    ]
    publish_version(local, ref("support@2"), hub, alias="live", reason="again")
    assert len(hub.history("support")) == 3


def test_a_wrong_alias_is_refused_before_anything_is_sent(local, other, adapter):
    local.publish("support", adapter(1))
    with pytest.raises(InvalidName):
        publish_version(local, ref("support"), other, alias="latest")
    assert list(other.versions()) == []


def test_a_version_is_kept_from_collection_while_it_is_read(local, adapter):
    version = local.publish("support", adapter(1))
    with checked_out(local, version) as package:
        assert local.gc(grace=0).leased == 1
        assert (package.directory / WEIGHTS).exists()
    assert local.gc(grace=0).checkouts == 1
