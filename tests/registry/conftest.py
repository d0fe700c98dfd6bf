"""A registry of each kind, and the servers that it needs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from adaptery.registry.base import Registry
from adaptery.registry.hub.registry import HubRegistry
from adaptery.registry.local import LocalRegistry
from adaptery.registry.team import TeamRegistry
from adaptery.types import AdapterPackage, LifecycleHooks
from tests.adapters import make_adapter
from tests.hub_peer import HubPeer

OpenRegistry = Callable[[LifecycleHooks | None], Registry]
MakeAdapter = Callable[..., AdapterPackage]


@pytest.fixture
def hub_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client on line, without Xet, and with a cache of this test's own."""
    # The client reads these variables when it is imported, which may have happened by now.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def peer(tmp_path: Path, hub_client: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubPeer]:
    """A Hub of this test's own, which `HubRegistry.open` finds."""
    with HubPeer(tmp_path / "peer") as peer:
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        yield peer


@pytest.fixture(params=["local", "team", "hub"])
def open_registry(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRegistry:
    """Opens this test's registry, with the hooks given; opening twice opens the same one."""
    if request.param == "local":
        return lambda hooks: LocalRegistry.open(str(tmp_path / "registry"), hooks)
    if request.param == "team":
        url = request.getfixturevalue("team_url")
        return lambda hooks: TeamRegistry.open(url, hooks)
    request.getfixturevalue("peer")
    return lambda hooks: HubRegistry.open("hf://org", hooks)


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry(None)


@pytest.fixture
def local(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry.open(str(tmp_path / "registry"))


@pytest.fixture
def hub(peer: HubPeer) -> HubRegistry:
    return HubRegistry.open("hf://org")


@pytest.fixture
def adapter(tmp_path: Path) -> MakeAdapter:
    """Makes the adapter number `seed`; each seed has its own directory."""

    def make(seed: int, **options: object) -> AdapterPackage:
        return make_adapter(tmp_path / f"adapter-{seed}", seed=seed, **options)

    return make
