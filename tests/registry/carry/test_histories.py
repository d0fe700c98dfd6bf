"""Whole histories from one registry to another: verbatim, resumable, never half a lie."""

from dataclasses import replace

import pytest

from adaptery.errors import Conflict, CorruptFile, ReferenceNotFound
from adaptery.registry.carry.histories import Copied, copy_registry, sync
from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.hub.registry import HubRegistry
from adaptery.registry.line import history_digest
from adaptery.registry.local import LocalRegistry
from adaptery.registry.team import TeamRegistry
from adaptery.types import AdapterRef


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def other(tmp_path):
    return LocalRegistry.open(str(tmp_path / "other"))


@pytest.fixture
def lived(local, adapter):
    """A registry in which everything happened that can: 12 events of `support`, 1 of `sales`."""
    for seed in (1, 2, 3):
        local.publish("support", adapter(seed), reason=f"seed {seed}")
    local.promote(ref("support@2"), reason="better")
    local.promote(ref("support@3"), "canary")
    local.rollback("support", reason="no, worse\nby 2 %")
    local.yank(ref("support@2"), "the data was not ours — a café's")
    local.unyank(ref("support@2"))
    local.yank(ref("support@2"), "it was, after all")
    local.tag(ref("support@1"), {"owner": "ann", "team": "αβγ"})
    local.note(ref("support@3"), "Try this one.")
    local.attach_signature(ref("support@1"), '{"a": "signature"}')
    local.publish("sales", adapter(4))
    return local


def state(registry):
    """Everything that a registry says of its adapters, but where it is."""
    names = sorted({version.name for version in registry.versions()})
    return {
        name: (
            [(v.number, v.digest, v.created_at, v.created_by) for v in registry.versions(name)],
            list(registry.aliases(name)),
            registry.standing(name),
            history_digest(registry.history(name)),
            list(registry.history(name)),
        )
        for name in names
    }


def files(registry):
    return {
        str(version): (registry.materialize(version) / WEIGHTS).read_bytes()
        for version in registry.versions()
    }


def same_history(one, other, name="support"):
    return list(one.history(name)) == list(other.history(name))


# Copying a registry


def test_from_a_directory_to_a_team_to_the_hub_and_back(lived, team_url, peer, other):
    team, hub = TeamRegistry.open(team_url), HubRegistry.open("hf://org")
    wanted = state(lived)
    for source, target in ((lived, team), (team, hub), (hub, other)):
        assert copy_registry(source, target) == Copied(2, 4, 13, 0)
        assert state(target) == wanted
    assert files(other) == files(lived)
    assert other.fsck() == []


def test_copying_again_writes_nothing(lived, other):
    copy_registry(lived, other)
    assert copy_registry(lived, other) == Copied(2, 0, 0, 13)
    assert copy_registry(other, lived) == Copied(2, 0, 0, 13)


def test_a_copy_that_was_stopped_goes_on_where_it_was(lived, other):
    seen = []

    def stop_after_five(done, total, event):
        seen.append((done, total, event.adapter))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_registry(lived, other, stop_after_five)
    assert seen == [(1, 13, "sales"), *((n, 13, "support") for n in range(2, 6))]
    assert other.fsck() == []
    rest = []
    copied = copy_registry(lived, other, lambda done, total, event: rest.append((done, event.id)))
    assert copied == Copied(2, 0, 8, 5)
    assert rest == [(n, n - 1) for n in range(6, 14)]
    assert state(other) == state(lived)


def test_what_happened_since_is_copied_too(lived, other):
    copy_registry(lived, other)
    lived.note(ref("support@1"), "one more")
    assert copy_registry(lived, other) == Copied(2, 0, 1, 13)
    assert same_history(lived, other)


def test_another_history_is_refused_before_anything_is_written(lived, other, adapter):
    other.publish("support", adapter(9))
    before = state(other)
    with pytest.raises(
        Conflict, match=r"history of support in .*other is another than .* from event 1 on"
    ):
        copy_registry(lived, other)
    assert state(other) == before


def test_a_history_that_went_on_in_the_target_is_not_continued(lived, other):
    copy_registry(lived, other)
    other.note(ref("support@1"), "only here")
    lived.note(ref("support@1"), "only there")
    with pytest.raises(Conflict, match="from event 13 on, so it cannot be continued"):
        copy_registry(lived, other)
    assert other.history("support")[-1].reason == "only here"


def test_the_same_events_about_another_version_are_another_history(local, other, adapter):
    local.publish("support", adapter(1))
    package = adapter(2)
    published = replace(local.history("support")[0], data={"digest": package.manifest.digest})
    other.append(published, package)
    with pytest.raises(Conflict, match="from event 1 on"):
        copy_registry(local, other)


def test_a_corrupt_version_stops_the_copy_there(lived, other):
    weights = lived.materialize(lived.resolve(ref("support@2"))) / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    with pytest.raises(CorruptFile, match=WEIGHTS):
        copy_registry(LocalRegistry.open(lived.url), other)
    assert [v.number for v in other.versions("support")] == [1]
    assert other.fsck() == []


def test_an_empty_registry_is_copied_in_no_time(local, other):
    assert copy_registry(local, other) == Copied(0, 0, 0, 0)


def test_what_is_being_copied_is_kept_from_collection(lived, other):
    held = []

    def collect(done, total, event):
        lived.gc(grace=0)
        held.append(event)

    copy_registry(lived, other, collect)
    assert len(held) == 13
    assert lived.gc(grace=0).leased == 0
    assert state(other) == state(lived)


def test_every_command_is_a_method(lived, other):
    assert lived.copy_to(other) == Copied(2, 4, 13, 0)
    assert other.sync(lived, "support").sent == ()
    assert other.pull(lived, ref("support@3"), "mine").number == 3
    assert lived.publish_to(other, ref("sales"), "theirs", alias="canary").number == 1
    assert [a.name for a in other.aliases("theirs")] == ["canary", "live"]


# Keeping one adapter in step


def test_the_first_sync_sends_the_whole_history(lived, hub):
    done = sync(lived, hub, "support")
    assert (done.sent, done.received, done.events_sent) == ((1, 2, 3), (), 12)
    assert done.aliases is None
    assert same_history(lived, hub)
    with pytest.raises(ReferenceNotFound):
        hub.history("sales")


def test_the_first_sync_elsewhere_receives_it(lived, hub, other):
    sync(lived, hub, "support")
    done = sync(other, hub, "support")
    assert (done.sent, done.received, done.events_received) == ((), (1, 2, 3), 12)
    assert state(other)["support"] == state(lived)["support"]


def test_in_step_there_is_nothing_to_do(lived, hub):
    sync(lived, hub, "support")
    done = sync(lived, hub, "support")
    assert (done.events_sent, done.events_received, done.aliases) == (0, 0, None)


def test_whoever_is_behind_catches_up(lived, hub, other, adapter):
    sync(lived, hub, "support")
    sync(other, hub, "support")
    lived.publish("support", adapter(5))
    lived.promote(ref("support@4"))
    assert sync(lived, hub, "support").sent == (4,)
    assert sync(other, hub, "support").received == (4,)
    assert other.resolve(ref("support")).number == 4
    assert same_history(lived, other)


def test_diverged_histories_exchange_versions_and_keep_their_aliases(local, other, adapter):
    first = adapter(1)
    local.publish("support", first)
    sync(local, other, "support")
    local.publish("support", adapter(2))
    local.promote(ref("support@2"))
    local.yank(ref("support@1"), "old")
    other.publish("support", adapter(3), number=3)
    other.promote(ref("support@3"), "canary")
    done = sync(local, other, "support")
    assert (done.sent, done.received, done.events_sent, done.events_received) == ((2,), (3,), 0, 0)
    assert done.aliases == {"canary": (None, 3), "live": (2, 1)}
    assert done.yanked == (1,)
    assert [v.digest for v in local.versions()] == [v.digest for v in other.versions()]
    assert local.history("support")[-1].reason == "copied from support@3"
    again = sync(local, other, "support")
    assert (again.sent, again.received) == ((), ())


def test_a_number_that_both_gave_away_is_refused_before_anything_is_written(local, other, adapter):
    local.publish("support", adapter(1))
    sync(local, other, "support")
    local.publish("support", adapter(2))
    local.publish("support", adapter(3))
    other.publish("support", adapter(4))
    before = state(local), state(other)
    with pytest.raises(Conflict, match=r"support@2 is sha256:\w+ in .*nothing was copied.*--name"):
        sync(local, other, "support")
    assert (state(local), state(other)) == before


def test_one_version_under_two_numbers_is_not_copied_twice(local, other, adapter):
    local.publish("support", adapter(1))
    other.publish("support", adapter(2), number=7)
    local.publish("support", adapter(2))
    done = sync(local, other, "support")
    assert (done.sent, done.received) == ((1,), ())


def test_what_neither_side_has_cannot_be_kept_in_step(lived, other):
    with pytest.raises(ReferenceNotFound, match=r"no adapter 'suport' in .*Did you mean 'support'"):
        sync(lived, other, "suport")
