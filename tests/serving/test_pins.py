"""A pinned model is at hand from the start, and its pin follows its alias."""

import asyncio

import pytest

from adaptery.errors import ProbeMismatch, ReferenceNotFound, UsageError
from adaptery.serving.pins import Pins
from adaptery.serving.residency import Residency
from adaptery.serving.resolver import Resolver
from adaptery.types import ProbePrompt, TokenScore, Version
from tests.serving.dict_registry import DictRegistry
from tests.serving.test_residency import LoadOnlyEngine

pytestmark = pytest.mark.anyio

ANOTHERS = (ProbePrompt(token_ids=(1,), top=(TokenScore(token=1, trained=-9.0, base=-1.0),)),)


class PinningEngine(LoadOnlyEngine):
    """Remembers what is pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: frozenset[str] = frozenset()

    async def pin(self, names: frozenset[str]) -> None:
        assert names <= self.held.keys()
        self.pinned = names


class Pinned:
    """Pins of an engine that remembers them, over a registry of two versions each."""

    def __init__(self, registry: DictRegistry, base, *models: str) -> None:
        self.engine = PinningEngine()
        self.residency = Residency(self.engine, registry, 1)
        self.resolver = Resolver(registry, base, "tiny")
        self.pins = Pins(models, self.resolver, self.residency, self.engine)

    async def ask(self, model: str) -> Version:
        """As a request does."""
        version = await self.resolver.resolve(model)
        self.pins.saw(model, version)
        await asyncio.gather(*self.pins._moves.values())
        return version


@pytest.fixture
def registry(tmp_path, base, adapters) -> DictRegistry:
    registry = DictRegistry(tmp_path, base.identity)
    for name in ("support", "news"):
        for adapter in ("narrow", "wide"):
            registry.publish(name, adapters[adapter])
    return registry


def names(*versions: Version) -> set[str]:
    return {version.engine_name for version in versions}


async def test_pins_are_loaded_at_the_start_and_never_leave(registry, base):
    pinned = Pinned(registry, base, "support", "news@2", "support")
    assert not pinned.pins.ready
    await pinned.pins.start()
    assert pinned.pins.ready
    wanted = names(registry.published["support"][0], registry.published["news"][1])
    assert pinned.engine.pinned == wanted == set(pinned.engine.held)
    async with pinned.residency.hold(registry.published["news"][0]):
        pass
    await asyncio.gather(*pinned.residency._leaving.values())
    assert set(pinned.engine.held) == wanted


async def test_a_pin_follows_its_alias_with_the_next_request(registry, base):
    pinned = Pinned(registry, base, "support", "news@2")
    await pinned.pins.start()
    registry.promote("support", 2)
    new = await pinned.ask("support")
    assert new.number == 2
    assert pinned.engine.pinned == names(new, registry.published["news"][1])
    await asyncio.gather(*pinned.residency._leaving.values())
    assert set(pinned.engine.held) == pinned.engine.pinned


async def test_other_models_move_no_pin(registry, base):
    pinned = Pinned(registry, base, "support")
    await pinned.pins.start()
    before = pinned.engine.pinned
    await pinned.ask("support@2")
    await pinned.ask("news")
    assert pinned.engine.pinned == before


async def test_where_the_new_version_cannot_be_served_the_old_one_stays_pinned(
    registry, base, adapters, caplog
):
    pinned = Pinned(registry, base, "support")
    await pinned.pins.start()
    before = pinned.engine.pinned
    bad = registry.publish("support", adapters["stable"], probe=ANOTHERS)
    registry.promote("support", bad.number)
    await pinned.ask("support")
    assert pinned.engine.pinned == before
    assert "support@3 cannot be pinned as support" in caplog.text


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("nobody", ReferenceNotFound, "nobody"),
        ("tiny", UsageError, "--pin tiny is the base"),
        ("support@3", ProbeMismatch, "does not answer here"),
    ],
)
async def test_what_cannot_be_pinned_is_an_error_at_the_start(
    registry, base, adapters, model, error, words
):
    registry.publish("support", adapters["stable"], probe=ANOTHERS)
    pinned = Pinned(registry, base, model)
    with pytest.raises(error, match=words):
        await pinned.pins.start()
    assert not pinned.pins.ready
