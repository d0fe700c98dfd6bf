"""Time that does not pass, and registries that know nothing yet."""

import pytest
from huggingface_hub import close_session

from adaptery.registry.hub.registry import HubRegistry
from tests.hub_peer import HubPeer, Trouble


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, in seconds; none takes any time."""
    made = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Opens the registry of another machine, on which nothing was downloaded yet."""
    opened = []

    def open_fresh():
        opened.append(tmp_path / f"cache-{len(opened)}")
        monkeypatch.setenv("ADAPTERS_CACHE", str(opened[-1]))
        return HubRegistry.open("hf://org")

    return open_fresh


@pytest.fixture
def trouble(peer: HubPeer):
    """Gets the requests that match into trouble."""

    def make(request, **options):
        peer.troubles.append(Trouble(request, **options))
        return peer.troubles[-1]

    return make


@pytest.fixture(autouse=True)
def own_session():
    """The client's connections and limits are this test's own."""
    close_session()
