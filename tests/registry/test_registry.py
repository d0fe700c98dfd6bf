"""What every registry must do, run over each kind."""

from datetime import UTC, datetime, timedelta

import pytest

from adaptery.errors import (
    Conflict,
    CorruptFile,
    InvalidAdapter,
    InvalidName,
    PromotionRefused,
    ReferenceNotFound,
)
from adaptery.registry.gate.package import WEIGHTS
from adaptery.types import AdapterRef, EventKind


class Gate:
    """Hooks that object to what they are told to, and remember what they were told."""

    def __init__(self, *objections):
        self.reasons = objections
        self.asked, self.told = [], []

    def objections(self, version, alias):
        self.asked.append((str(version), alias))
        return self.reasons

    def notify(self, event, version):
        self.told.append((event.kind, str(version)))


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def three(registry, adapter):
    """The registry with three versions of `support`; 1 is live."""
    for seed in range(1, 4):
        registry.publish("support", adapter(seed))
    return registry


def test_versions_are_numbered_and_the_first_becomes_live(registry, adapter):
    first, second = (registry.publish("support", adapter(seed)) for seed in (1, 2))
    assert (first.number, second.number) == (1, 2)
    assert registry.resolve(ref("support")) == first
    assert registry.resolve(ref("support@latest")) == second
    assert registry.resolve(ref("support@1")) == first
    assert registry.resolve(ref(f"support@sha256:{second.digest[:12]}")) == second


def test_what_is_published_is_what_is_read_back(open_registry, adapter):
    package = adapter(1, metrics={"f1": 0.1 + 0.2})
    published = open_registry(None).publish("support", package)
    read = open_registry(None).resolve(ref("support"))
    assert read == published
    assert read.manifest == package.manifest
    assert read.digest == package.manifest.digest
    assert abs(read.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_materialize_gives_a_directory_with_exactly_the_files(registry, adapter):
    package = adapter(1)
    directory = registry.materialize(registry.publish("support", package))
    assert {file.name for file in directory.iterdir()} == {f.path for f in package.manifest.files}
    for file in package.manifest.files:
        original = (package.directory / file.path).read_bytes()
        assert (directory / file.path).read_bytes() == original


def test_publishing_the_same_again_returns_the_version_that_there_is(registry, adapter):
    first = registry.publish("support", adapter(1))
    registry.publish("support", adapter(2))
    assert registry.publish("support", adapter(1)) == first
    assert len(registry.versions("support")) == 2
    assert len(registry.history("support")) == 2


def test_a_version_can_come_with_its_number(registry, adapter):
    registry.publish("support", adapter(1), number=7)
    assert registry.publish("support", adapter(2)).number == 8
    assert registry.publish("support", adapter(3), number=2).number == 2
    with pytest.raises(Conflict, match="support@7 is already another version"):
        registry.publish("support", adapter(4), number=7)
    assert [version.number for version in registry.versions()] == [2, 7, 8]


def test_versions_and_aliases_are_listed_in_order(registry, adapter):
    for name, seed in [("zebra", 1), ("ant", 2), ("zebra", 3)]:
        registry.publish(name, adapter(seed))
    registry.promote(ref("zebra@2"), "canary")
    assert [str(version) for version in registry.versions()] == ["ant@1", "zebra@1", "zebra@2"]
    assert [str(version) for version in registry.versions("zebra")] == ["zebra@1", "zebra@2"]
    found = [(alias.adapter, alias.name, alias.number) for alias in registry.aliases()]
    assert found == [("ant", "live", 1), ("zebra", "canary", 2), ("zebra", "live", 1)]
    assert [alias.name for alias in registry.aliases("ant")] == ["live"]


def test_an_empty_registry_lists_nothing_and_finds_nothing(registry):
    assert list(registry.versions()) == []
    assert list(registry.aliases()) == []
    assert list(registry.versions("support")) == []
    with pytest.raises(ReferenceNotFound, match="There is none yet"):
        registry.resolve(ref("support"))
    with pytest.raises(ReferenceNotFound):
        registry.history("support")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("suport", "Did you mean 'support'"),
        ("support@9", r"no support@9\. Versions of support: 1–3"),
        ("support@canary", r"no alias 'canary'\. Known: live\. Versions of support: 1–3"),
        ("support@sha256:00000000", "No version of support is support@sha256:00000000"),
    ],
)
def test_a_reference_that_means_nothing_is_told_what_there_is(three, reference, sentence):
    with pytest.raises(ReferenceNotFound, match=sentence):
        three.resolve(ref(reference))
    with pytest.raises(ReferenceNotFound, match=sentence):
        three.promote(ref(reference), "candidate")


def test_rollback_walks_back_and_a_new_promotion_starts_from_there(three):
    for number in (2, 3):
        three.promote(ref(f"support@{number}"))
    assert three.rollback("support").number == 2
    assert three.resolve(ref("support")).number == 2
    three.promote(ref("support@3"))
    assert [three.rollback("support").number for _ in range(2)] == [2, 1]
    with pytest.raises(ReferenceNotFound, match="nothing earlier to go back to"):
        three.rollback("support")
    assert three.resolve(ref("support")).number == 1


def test_rollback_to_names_the_version(three):
    three.promote(ref("support@3"))
    assert three.rollback("support", to=2).number == 2
    assert three.resolve(ref("support")).number == 2
    with pytest.raises(ReferenceNotFound, match="no support@9"):
        three.rollback("support", to=9)
    with pytest.raises(ReferenceNotFound, match="no alias 'canary'"):
        three.rollback("support", "canary")


def test_history_tells_everything_in_order(three, monkeypatch):
    monkeypatch.setenv("ADAPTERS_ACTOR", "ada")
    three.promote(ref("support@2"), reason="better F1")
    three.rollback("support", reason="it swears")
    *published, promoted, rolled_back = three.history("support")
    assert [event.kind for event in published] == [EventKind.PUBLISHED] * 3
    assert (published[0].alias, published[1].alias) == ("live", None)
    assert (promoted.kind, promoted.number, promoted.previous) == (EventKind.PROMOTED, 2, 1)
    assert (promoted.actor, promoted.reason) == ("ada", "better F1")
    assert (rolled_back.kind, rolled_back.number) == (EventKind.ROLLED_BACK, 1)
    assert rolled_back.reason == "it swears"
    assert sorted({event.id for event in three.history("support")}) == [1, 2, 3, 4, 5]


def test_the_event_that_is_returned_is_the_one_in_the_history(three):
    assert three.promote(ref("support@3")) == three.history("support")[-1]
    assert three.rollback("support") == three.history("support")[-1]


def test_another_opener_sees_a_promotion_at_once(three, open_registry):
    reader = open_registry(None)
    assert reader.resolve(ref("support")).number == 1
    three.promote(ref("support@3"))
    assert reader.resolve(ref("support")).number == 3
    assert reader.aliases("support")[0].generation == 2


def test_expect_guards_a_promotion(three):
    three.promote(ref("support@2"), expect=1)
    with pytest.raises(Conflict, match="points to support@2, not to support@1"):
        three.promote(ref("support@3"), expect=1)
    assert three.resolve(ref("support")).number == 2


def test_an_alias_that_moves_while_hooks_think_is_a_conflict(three, open_registry):
    class Meddler(Gate):
        def objections(self, version, alias):
            three.promote(ref("support@3"))
            return ()

    with pytest.raises(Conflict, match="moved to support@3 meanwhile"):
        open_registry(Meddler()).promote(ref("support@2"))
    assert three.resolve(ref("support")).number == 3


def test_another_alias_may_move_while_hooks_think(three, open_registry):
    class Neighbour(Gate):
        def objections(self, version, alias):
            three.promote(ref("support@3"), "canary")
            return ()

    open_registry(Neighbour()).promote(ref("support@2"))
    assert three.resolve(ref("support")).number == 2


def test_an_objection_stops_a_promotion_and_says_why(three, open_registry):
    gate = Gate("F1 fell by 0.2.", "Nobody has reviewed it.")
    sentence = r"support@2 must not become 'canary': F1 fell by 0\.2\. Nobody has reviewed it\."
    with pytest.raises(PromotionRefused, match=sentence):
        open_registry(gate).promote(ref("support@2"), "canary")
    assert gate.asked == [("support@2", "canary")]
    assert gate.told == []
    assert [alias.name for alias in three.aliases("support")] == ["live"]


def test_an_objection_keeps_the_first_version_from_becoming_live(open_registry, adapter):
    version = open_registry(Gate("F1 is 0.1.")).publish("support", adapter(1), reason="try")
    registry = open_registry(None)
    assert registry.resolve(ref("support@1")) == version
    with pytest.raises(ReferenceNotFound, match="no alias 'live'"):
        registry.resolve(ref("support"))
    assert registry.history("support")[0].reason == "try Not made live: F1 is 0.1."


def test_hooks_are_told_of_every_change_and_of_nothing_else(open_registry, adapter):
    gate = Gate()
    registry = open_registry(gate)
    registry.publish("support", adapter(1))
    registry.publish("support", adapter(1))
    registry.publish("support", adapter(2))
    registry.promote(ref("support@2"))
    registry.rollback("support")
    assert gate.told == [
        (EventKind.PUBLISHED, "support@1"),
        (EventKind.PUBLISHED, "support@2"),
        (EventKind.PROMOTED, "support@2"),
        (EventKind.ROLLED_BACK, "support@1"),
    ]


def test_a_rollback_asks_nobody(three, open_registry):
    three.promote(ref("support@2"))
    gate = Gate("never")
    assert open_registry(gate).rollback("support").number == 1
    assert gate.asked == []


@pytest.mark.parametrize("name", ["Support", "../etc", "a..b", "", "-x"])
def test_a_bad_name_is_refused(registry, adapter, name):
    with pytest.raises(InvalidName):
        registry.publish(name, adapter(1))


@pytest.mark.parametrize("alias", ["latest", "v3", "Live", "a/b"])
def test_a_bad_alias_is_refused(three, alias):
    with pytest.raises(InvalidName):
        three.promote(ref("support@2"), alias)


def test_files_that_are_not_the_manifests_are_refused_and_nothing_is_kept(
    registry, adapter, tmp_path
):
    changed, malformed = adapter(1), adapter(2, r=4, lora_alpha="eight")
    weights = changed.directory / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptFile, match=f"{WEIGHTS} does not have the digest"):
        registry.publish("support", changed)
    with pytest.raises(InvalidAdapter, match="lora_alpha"):
        registry.publish("support", malformed)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_registry_can_be_made_described_and_migrated(registry, adapter):
    registry.init()
    assert registry.init() is False
    empty = registry.info()
    assert (empty.adapters, empty.versions, empty.aliases, empty.events, empty.blobs) == (0,) * 5
    first = registry.publish("support", adapter(1))
    registry.publish("other", adapter(1))
    registry.promote(ref("support"), "canary")
    info = registry.info()
    assert (info.adapters, info.versions, info.aliases, info.events) == (2, 2, 3, 3)
    assert (info.blobs, info.bytes) == (len(first.manifest.files), first.manifest.size)
    assert info.url == registry.url
    assert info.backend
    assert registry.migrate() is None
