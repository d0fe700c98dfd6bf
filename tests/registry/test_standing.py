"""What is said of versions after they were published, over each kind of registry."""

import pytest

from adaptery.errors import (
    Conflict,
    InvalidName,
    PromotionRefused,
    ReferenceNotFound,
    UsageError,
)
from adaptery.registry.line import history_digest
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterPackage, AdapterRef, EventKind
from tests.registry.test_registry import Gate


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def local_copy(tmp_path):
    """Another registry, empty yet."""
    return LocalRegistry.open(str(tmp_path / "copy"))


@pytest.fixture
def three(registry, adapter):
    """The registry with three versions of `support`; 1 is live."""
    for seed in range(1, 4):
        registry.publish("support", adapter(seed))
    return registry


def test_a_yanked_version_stays_readable_by_number_and_digest(three):
    version = three.resolve(ref("support@3"))
    event = three.yank(ref("support@3"), "It leaks names.")
    assert (event.kind, event.number, event.reason) == (EventKind.YANKED, 3, "It leaks names.")
    assert three.resolve(ref("support@3")) == version
    assert three.resolve(ref(f"support@sha256:{version.digest[:12]}")) == version
    assert three.materialize(version).is_dir()
    assert three.standing("support")[3].yanked == "It leaks names."


def test_latest_passes_yanked_versions_over(three):
    three.yank(ref("support@3"), "bad")
    assert three.resolve(ref("support@latest")).number == 2
    three.unyank(ref("support@3"), "good after all")
    assert three.resolve(ref("support@latest")).number == 3
    assert three.standing("support")[3].yanked is None


def test_where_every_version_is_yanked_none_is_the_latest(open_registry, adapter):
    registry = open_registry(Gate("Not yet."))
    registry.publish("support", adapter(1))
    registry.yank(ref("support@1"), "bad")
    with pytest.raises(ReferenceNotFound, match="Every version of support was yanked"):
        registry.resolve(ref("support@latest"))


def test_no_alias_can_mean_a_yanked_version(three):
    three.promote(ref("support@2"), "canary")
    three.yank(ref("support@3"), "It leaks names.")
    sentence = r"support@3 was yanked: It leaks names\. .*`adapters unyank support@3`"
    with pytest.raises(PromotionRefused, match=sentence):
        three.promote(ref("support@3"))
    with pytest.raises(PromotionRefused, match=sentence):
        three.rollback("support", to=3)
    assert three.resolve(ref("support")).number == 1


def test_what_an_alias_means_cannot_be_yanked(three):
    three.promote(ref("support@2"), "canary")
    with pytest.raises(Conflict, match="support@2 is what 'canary' means"):
        three.yank(ref("support@2"), "bad")
    three.promote(ref("support@3"), "canary")
    three.yank(ref("support@2"), "bad")


def test_a_rollback_walks_past_yanked_versions(three):
    for number in (2, 3):
        three.promote(ref(f"support@{number}"))
    three.yank(ref("support@2"), "bad")
    assert three.rollback("support").number == 1
    with pytest.raises(ReferenceNotFound, match="nothing earlier"):
        three.rollback("support")


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_yank_needs_a_reason(three, reason):
    with pytest.raises(UsageError, match="Say why support@3 is yanked"):
        three.yank(ref("support@3"), reason)


def test_yanking_twice_and_unyanking_what_is_not_are_refused(three):
    with pytest.raises(Conflict, match="support@3 is not yanked"):
        three.unyank(ref("support@3"))
    three.yank(ref("support@3"), "bad")
    with pytest.raises(Conflict, match="yanked already: bad"):
        three.yank(ref("support@3"), "worse")


def test_tags_come_change_and_go(three):
    three.tag(ref("support@2"), {"team": "search", "stage": "trial"})
    three.tag(ref("support@2"), {"stage": "done", "team": ""})
    assert three.standing("support")[2].tags == {"stage": "done"}
    assert three.standing("support")[1].tags == {}


@pytest.mark.parametrize(
    "tags", [{}, {"": "x"}, {"Team": "x"}, {"a b": "x"}, {"-a": "x"}, {"k": "\x1b[2J"}, {"k": "\0"}]
)
def test_a_tag_that_breaks_the_grammar_is_refused(three, tags):
    with pytest.raises(InvalidName):
        three.tag(ref("support@2"), tags)
    assert len(three.history("support")) == 3


def test_notes_are_kept_in_order(three):
    three.note(ref("support@2"), "Trained on the cleaned data.")
    three.note(ref("support@2"), "Zweite Notiz: größer 🚀")
    assert three.standing("support")[2].notes == (
        "Trained on the cleaned data.",
        "Zweite Notiz: größer 🚀",
    )
    with pytest.raises(UsageError, match="without text"):
        three.note(ref("support@2"), "\n")


@pytest.mark.parametrize("reason", ["\x1b]0;x\x07", "\ud800", "x" * 4097, "a\u202eb", "\r"])
def test_text_that_a_terminal_would_obey_is_refused(three, reason):
    with pytest.raises(InvalidName):
        three.promote(ref("support@2"), reason=reason)
    assert three.resolve(ref("support")).number == 1


def test_a_standing_knows_its_aliases_and_signatures(three):
    three.promote(ref("support@2"), "canary")
    three.promote(ref("support@2"))
    three.attach_signature(ref("support@2"), '{"signed": true}')
    standing = three.standing("support")
    assert standing[2].aliases == ("canary", "live")
    assert standing[2].signatures == ('{"signed": true}',)
    assert list(standing) == [1, 2, 3]


def test_observers_of_other_events_are_not_disturbed(open_registry, adapter):
    gate = Gate()
    registry = open_registry(gate)
    registry.publish("support", adapter(1))
    registry.note(ref("support"), "hello")
    assert [kind for kind, _ in gate.told] == [EventKind.PUBLISHED, EventKind.NOTED]


def test_a_history_can_be_copied_event_by_event(three, local_copy):
    three.promote(ref("support@2"), reason="better")
    three.yank(ref("support@3"), "bad")
    three.tag(ref("support@2"), {"team": "search"})
    for event in three.history("support"):
        assert local_copy.append(event, package_of(three, event))
    assert history_digest(local_copy.history("support")) == history_digest(three.history("support"))
    assert list(local_copy.versions()) == list(three.versions())
    assert list(local_copy.aliases()) == list(three.aliases())
    assert local_copy.standing("support") == three.standing("support")


def test_copying_again_adds_nothing(three, local_copy):
    events = three.history("support")
    packages = [package_of(three, event) for event in events]
    assert all(map(local_copy.append, events, packages))
    assert not any(map(local_copy.append, events, packages))
    assert len(local_copy.history("support")) == 3


def test_a_history_that_went_on_differently_is_not_continued(three, local_copy):
    events = three.history("support")
    local_copy.append(events[0], package_of(three, events[0]))
    with pytest.raises(Conflict, match="differ"):  # the second is missing
        local_copy.append(events[2], package_of(three, events[2]))
    three.note(ref("support@3"), "about what is not there yet")
    with pytest.raises(Conflict, match="differ"):
        local_copy.append(three.history("support")[3])
    local_copy.note(ref("support@1"), "mine")
    with pytest.raises(Conflict, match="histories of support differ"):
        local_copy.append(events[1], package_of(three, events[1]))
    assert len(local_copy.versions()) == 1


def package_of(registry, event):
    if event.kind is not EventKind.PUBLISHED:
        return None
    version = registry.resolve(AdapterRef(event.adapter, number=event.number))
    return AdapterPackage(registry.materialize(version), version.manifest)
