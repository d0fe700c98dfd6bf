"""Private and gated repositories."""

import pytest

from adaptery.errors import Conflict, ReferenceNotFound, RemoteError
from adaptery.registry.hub.registry import HubRegistry
from adaptery.types import AdapterRef

REPO = "org/support"


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def private(peer, monkeypatch):
    """A registry whose repositories are private, of somebody who is logged in."""
    peer.token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    return HubRegistry.open("hf://org", private=True)


def test_what_is_published_in_private_is_private(private, peer, adapter, monkeypatch, fresh):
    private.publish("support", adapter(1))
    assert private.publish("support", adapter(2)).number == 2
    assert peer.store.repo(REPO).private
    other = fresh()
    assert other.materialize(other.resolve(ref("support@2")))
    assert fresh().fsck() == []


def test_to_others_a_private_adapter_is_none(private, peer, adapter, monkeypatch, fresh):
    version = private.publish("support", adapter(1))
    monkeypatch.delenv("HF_TOKEN")
    other = fresh()
    assert other.versions() == []
    with pytest.raises(ReferenceNotFound, match=r"no adapter 'support'.* after `hf auth login`"):
        other.resolve(ref("support"))
    with pytest.raises(RemoteError, match=r"gone from the Hub, or nobody here may see it"):
        other.materialize(version)
    with pytest.raises(RemoteError, match=r"hf auth login"):
        other.publish("support", adapter(2))


def test_by_default_the_owner_decides(hub, peer, adapter):
    hub.publish("support", adapter(1))
    assert not peer.store.repo(REPO).private


def test_a_public_repository_does_not_pass_for_private(hub, peer, adapter):
    hub.publish("support", adapter(1))
    with pytest.raises(Conflict, match=r"org/support is there already and everybody can read it"):
        HubRegistry.open("hf://org", private=True).publish("support", adapter(2))
    assert [version.number for version in hub.versions()] == [1]
    peer.store.repo(REPO).private = True
    assert HubRegistry.open("hf://org", private=True).publish("support", adapter(2)).number == 2


def test_a_gated_repository_is_named(hub, peer, adapter, fresh):
    hub.publish("support", adapter(1))
    peer.store.repo(REPO).gated = True
    with pytest.raises(RemoteError, match=r"restricted.*hf auth login"):
        fresh().resolve(ref("support"))
