"""The rules of a line of versions, without any storage."""

from dataclasses import replace

import pytest

from adaptery.errors import Conflict, InvalidName, ReferenceNotFound
from adaptery.registry import steps
from adaptery.registry.line import Line, ranges
from adaptery.registry.steps import actor
from adaptery.types import AdapterRef, Event

DIGESTS = {n: f"{n:08x}" + "0" * 56 for n in range(1, 10)}


def after(line: Line, event: Event) -> Line:
    return replace(line, events=[*line.events, event])


def promoted(*numbers: int, alias: str = "live") -> Line:
    line = Line("support", DIGESTS)
    for number in numbers:
        line = after(line, steps.promotion(line, number, alias, None, ""))
    return line


def rolled_back(line: Line, to: int | None = None) -> Line:
    return after(line, steps.rollback(line, "live", to, ""))


@pytest.mark.parametrize(
    ("promotions", "meanings"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 1], [1, 2, 1]),
        ([1, 2, 2], [1, 2]),
    ],
)
def test_a_promotion_adds_a_meaning_unless_it_changes_nothing(promotions, meanings):
    assert promoted(*promotions).meanings("live") == meanings


def test_rollbacks_walk_back_through_the_promotions_and_then_refuse():
    line = rolled_back(promoted(1, 2, 3))
    assert line.aliases["live"].number == 2
    line = rolled_back(line)
    assert line.aliases["live"].number == 1
    with pytest.raises(ReferenceNotFound, match="nothing earlier to go back to"):
        rolled_back(line)


def test_a_rollback_after_a_later_promotion_goes_to_what_live_meant_before_it():
    line = rolled_back(promoted(1, 2, 3))
    line = after(line, steps.promotion(line, 5, "live", None, ""))
    line = rolled_back(line)
    assert line.aliases["live"].number == 2
    assert rolled_back(line).aliases["live"].number == 1


def test_a_rollback_to_an_earlier_meaning_forgets_those_after_it():
    line = rolled_back(promoted(1, 2, 3, 4), to=2)
    assert line.meanings("live") == [1, 2]
    assert rolled_back(line).aliases["live"].number == 1


def test_a_rollback_to_a_version_that_was_never_live_takes_the_place_of_the_last():
    line = rolled_back(promoted(1, 2, 3), to=7)
    assert line.aliases["live"].number == 7
    assert rolled_back(line).aliases["live"].number == 2


def test_aliases_have_separate_histories():
    line = promoted(1, 2)
    line = after(line, steps.promotion(line, 5, "canary", None, ""))
    assert rolled_back(line).aliases["canary"].number == 5
    with pytest.raises(ReferenceNotFound):
        steps.rollback(line, "canary", None, "")


def test_every_move_raises_the_generation_and_names_what_was_before():
    line = rolled_back(promoted(1, 2))
    assert [event.generation for event in line.events] == [1, 2, 3]
    assert [event.previous for event in line.events] == [None, 1, 2]


def test_expect_must_be_what_the_alias_points_to():
    line = promoted(1, 2)
    assert steps.promotion(line, 3, "live", 2, "").number == 3
    with pytest.raises(Conflict, match="points to support@2, not to support@1"):
        steps.promotion(line, 3, "live", 1, "")
    with pytest.raises(Conflict, match="does not exist yet"):
        steps.promotion(line, 3, "canary", 1, "")


def test_numbers_are_the_next_after_the_highest_and_never_taken_twice():
    line = Line("support", {1: "a" * 64, 5: "b" * 64}, [])
    assert steps.publication(line, "c" * 64, None, "", ()).number == 6
    assert steps.publication(line, "c" * 64, 3, "", ()).number == 3
    with pytest.raises(Conflict, match="support@5 is already another version"):
        steps.publication(line, "c" * 64, 5, "", ())
    with pytest.raises(InvalidName, match="count from 1"):
        steps.publication(line, "c" * 64, 0, "", ())


def test_a_digest_prefix_must_mean_one_version():
    line = Line("support", {1: "ab" * 32, 2: "ab" * 16 + "cd" * 16})
    assert line.find(AdapterRef("support", digest="ab" * 17)) == 1
    with pytest.raises(ReferenceNotFound, match="version 1 or 2"):
        line.find(AdapterRef("support", digest="ab" * 8))


def test_runs_of_numbers_are_written_as_ranges():
    assert ranges({7: "", 1: "", 2: "", 3: "", 9: ""}) == "1–3, 7, 9"


def test_the_actor_can_be_named(monkeypatch):
    monkeypatch.setenv("ADAPTERS_ACTOR", "release-bot")
    assert actor() == "release-bot"
