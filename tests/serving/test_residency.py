"""Which versions are in the engine, and how they come and go."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from adaptery.errors import InvalidAdapter, ProbeMismatch, RegistryError
from adaptery.serving import leasing
from adaptery.serving.engine import Chunk, GenerationRequest
from adaptery.serving.proofs import Proofs
from adaptery.serving.residency import PROBES, Residency
from adaptery.types import ProbePrompt, TokenScore, Version
from tests.serving.dict_registry import DictRegistry

pytestmark = pytest.mark.anyio


class LoadOnlyEngine:
    """Loads and unloads, and gives every token the same score."""

    max_context = 100

    def __init__(self) -> None:
        self.held: dict[str, Path] = {}
        self.loads: list[str] = []
        self.bad: set[str] = set()
        self.scores = -1.0
        self.prompts = 0  # asked so far
        self.slow = False
        self.open = self.most = 0  # asked at the same time

    async def load(self, name: str, directory: Path) -> None:
        await asyncio.sleep(0.01)
        self.loads.append(name)
        if name in self.bad:
            raise InvalidAdapter(f"{name} is bad.")
        self.held[name] = directory

    async def unload(self, name: str) -> None:
        await asyncio.sleep(0.005)
        self.held.pop(name, None)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        assert request.adapter in self.held
        self.prompts += 1
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.005 if self.slow else 0)
        self.open -= 1
        yield Chunk(1, "", self.scores, ((1, self.scores),), "length")


PROBE = (ProbePrompt(token_ids=(1,), top=(TokenScore(token=1, trained=-1.0, base=-1.0),)),)


@pytest.fixture
def registry(tmp_path, base, adapters) -> DictRegistry:
    registry = DictRegistry(tmp_path, base.identity)
    for name in "abcd":
        registry.publish(name, adapters["narrow"], probe=PROBE)
        registry.publish(name, adapters["narrow"], probe=PROBE)
    return registry


@pytest.fixture
def versions(registry) -> dict[str, Version]:
    """Different versions; the second one of each, whose files the first ones share."""
    return {name: registry.published[name][1] for name in "abcd"}


@pytest.fixture
def engine() -> LoadOnlyEngine:
    return LoadOnlyEngine()


async def visit(residency: Residency, version: Version) -> Path:
    async with residency.hold(version) as directory:
        assert version.engine_name in residency._engine.held
        return directory


async def settled(residency: Residency) -> None:
    """Let those go that are told to."""
    await asyncio.gather(*residency._leaving.values())


async def test_a_version_is_loaded_once_for_all_who_ask_at_the_same_time(
    engine, registry, versions
):
    residency = Residency(engine, registry, 2)
    directories = await asyncio.gather(*[visit(residency, versions["a"]) for _ in range(5)])
    assert engine.loads == [versions["a"].engine_name]
    assert set(directories) == {registry.materialize(versions["a"])}


async def test_the_least_recently_used_version_goes(engine, registry, versions):
    residency = Residency(engine, registry, 2)
    for name in "abac":
        await visit(residency, versions[name])
    await settled(residency)
    assert set(engine.held) == {versions[name].engine_name for name in "ac"}
    assert residency.versions() == [versions["a"], versions["c"]]


async def test_versions_in_use_stay_and_nobody_waits_for_their_place(engine, registry, versions):
    residency = Residency(engine, registry, 2)
    async with AsyncExitStack() as using:
        for name in "abcd":
            await using.enter_async_context(residency.hold(versions[name]))
        assert len(engine.held) == 4
    await settled(residency)
    assert len(engine.held) == 2


async def test_many_requests_for_more_versions_than_are_kept_are_all_answered(
    engine, registry, versions
):
    residency = Residency(engine, registry, 2)
    await asyncio.gather(*[visit(residency, versions[name]) for name in "abcdbadcaabbccdd" * 2])
    await settled(residency)
    assert len(engine.held) == 2


async def test_a_version_whose_files_take_long_keeps_no_other_from_answering(
    engine, registry, versions, monkeypatch
):
    there, materialize = threading.Event(), registry.materialize

    def slowly(version: Version) -> Path:
        if version == versions["a"]:
            there.wait(10)
        return materialize(version)

    monkeypatch.setattr(registry, "materialize", slowly)
    residency = Residency(engine, registry, 1)
    slow = asyncio.create_task(visit(residency, versions["a"]))
    for name in "bcd" * 2:
        await asyncio.wait_for(visit(residency, versions[name]), 5)
    assert not slow.done()
    there.set()
    await slow


async def test_a_version_that_is_asked_for_while_it_goes_comes_back(engine, registry, versions):
    residency = Residency(engine, registry, 1)
    await visit(residency, versions["a"])
    async with residency.hold(versions["b"]):  # so that the first one is told to go
        await visit(residency, versions["a"])
    assert engine.loads.count(versions["a"].engine_name) == 2


async def test_a_first_use_of_many_versions_replays_few_probes_at_a_time(engine, registry):
    engine.slow = True
    residency = Residency(engine, registry)
    await asyncio.gather(*[visit(residency, v) for v in registry.versions()])
    assert 1 <= engine.most <= PROBES


async def test_equal_versions_of_two_names_are_both_answered(engine, registry, versions):
    """Their files and manifests are the same, so their digests are."""
    residency = Residency(engine, registry, 2)
    assert versions["a"].digest == versions["b"].digest
    await asyncio.gather(visit(residency, versions["a"]), visit(residency, versions["b"]))


async def test_a_bad_version_is_refused_at_once_from_then_on(engine, registry, versions):
    residency = Residency(engine, registry, 2)
    engine.bad.add(versions["a"].engine_name)
    for _ in range(3):
        with pytest.raises(InvalidAdapter, match="is bad"):
            await visit(residency, versions["a"])
    assert len(engine.loads) == 1
    assert residency.versions() == []


async def test_a_refused_version_takes_nobodys_place(engine, registry, versions):
    residency = Residency(engine, registry, 1)
    engine.bad.add(versions["a"].engine_name)
    with pytest.raises(InvalidAdapter):
        await visit(residency, versions["a"])
    other = registry.published["b"][0]
    await visit(residency, other)
    with pytest.raises(InvalidAdapter):
        await visit(residency, versions["a"])
    assert residency.versions() == [other]


async def test_a_version_that_fails_its_probe_does_not_stay_in_the_engine(
    engine, registry, versions
):
    residency = Residency(engine, registry, 2)
    engine.scores = -3.0
    with pytest.raises(ProbeMismatch):
        await visit(residency, versions["a"])
    assert engine.held == {}
    engine.scores = -1.0
    with pytest.raises(ProbeMismatch):  # remembered
        await visit(residency, versions["a"])


async def test_a_proven_version_comes_back_without_its_probe(engine, registry, versions):
    residency = Residency(engine, registry, 1)
    await visit(residency, versions["a"])
    await visit(residency, registry.published["c"][0])
    engine.scores = -9.0
    await visit(residency, versions["a"])


def proofs(tmp_path: Path, base_digest: str = "b" * 64, setting: str = "torch cpu") -> Proofs:
    return Proofs(tmp_path / "proofs", base_digest, setting)


async def test_a_proven_version_is_not_asked_again_by_the_next_server(
    engine, registry, versions, tmp_path
):
    await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    engine.scores = -9.0
    await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    assert engine.prompts == 1


@pytest.mark.parametrize("other", [{"base_digest": "c" * 64}, {"setting": "vllm cuda"}])
async def test_what_was_proven_on_another_base_or_engine_proves_nothing(
    engine, registry, versions, tmp_path, other
):
    await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    engine.scores = -9.0
    with pytest.raises(ProbeMismatch):
        await visit(Residency(engine, registry, proofs=proofs(tmp_path, **other)), versions["a"])


async def test_a_version_that_failed_is_not_remembered_as_proven(
    engine, registry, versions, tmp_path
):
    engine.scores = -9.0
    with pytest.raises(ProbeMismatch):
        await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    assert versions["a"].digest not in proofs(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", None])
async def test_a_damaged_proof_proves_nothing_and_is_made_anew(
    engine, registry, versions, tmp_path, damage
):
    await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    (file,) = (path for path in (tmp_path / "proofs").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    assert engine.prompts == 2
    assert versions["a"].digest in proofs(tmp_path)


async def test_where_proofs_cannot_be_kept_versions_are_served_all_the_same(
    engine, registry, versions, tmp_path, caplog
):
    (tmp_path / "proofs").write_text("a file where a directory belongs")
    await visit(Residency(engine, registry, proofs=proofs(tmp_path)), versions["a"])
    assert "could not be kept" in caplog.text


async def test_what_failed_by_accident_is_tried_again(engine, registry, versions, monkeypatch):
    residency = Residency(engine, registry, 2)

    def fail(version):
        raise RegistryError("The store cannot be reached.")

    with monkeypatch.context() as context:
        context.setattr(registry, "materialize", fail)
        with pytest.raises(RegistryError):
            await visit(residency, versions["a"])
    await visit(residency, versions["a"])


async def test_a_client_that_goes_while_a_version_is_loading_does_not_stop_the_others(
    engine, registry, versions
):
    residency = Residency(engine, registry, 1)
    first = asyncio.create_task(visit(residency, versions["a"]))
    second = asyncio.create_task(visit(residency, versions["a"]))
    await asyncio.sleep(0.002)
    first.cancel()
    await second
    await visit(residency, versions["c"])  # nobody uses the first any more


async def test_a_loaded_version_is_leased_and_the_lease_renewed(
    engine, registry, versions, monkeypatch
):
    monkeypatch.setattr(leasing, "LEASE_S", 0.03)
    residency = Residency(engine, registry, 1)
    await visit(residency, versions["a"])
    assert registry.leased == {"a@2": 0.03}
    registry.leased.clear()
    await asyncio.sleep(0.05)
    assert registry.leased == {"a@2": 0.03}
    await visit(residency, versions["c"])
    await settled(residency)
    await asyncio.sleep(0)
    assert set(registry.leased) == {"c@2"}


async def test_a_version_that_could_not_be_loaded_is_not_leased(engine, registry, versions):
    residency = Residency(engine, registry, 2)
    engine.bad.add(versions["a"].engine_name)
    with pytest.raises(InvalidAdapter):
        await visit(residency, versions["a"])
    await asyncio.sleep(0)
    assert registry.leased == {}


async def test_a_lease_that_cannot_be_renewed_for_once_is_tried_again(
    engine, registry, versions, monkeypatch
):
    monkeypatch.setattr(leasing, "LEASE_S", 0.03)
    residency = Residency(engine, registry, 1)
    await visit(residency, versions["a"])

    def fail(*_):
        raise RegistryError("The store cannot be reached.")

    with monkeypatch.context() as context:
        context.setattr(registry, "lease", fail)
        await asyncio.sleep(0.02)
    registry.leased.clear()
    await asyncio.sleep(0.03)
    assert set(registry.leased) == {"a@2"}
