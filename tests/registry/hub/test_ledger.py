"""A ledger is believed only if it tells a history that can have happened."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptery.errors import CorruptFile, RegistryError
from adaptery.registry import steps
from adaptery.registry.hub.ledger import MAX_LEDGER, read_ledger, write_ledger
from adaptery.registry.line import Line, history_digest
from adaptery.types import Event, EventKind

WHAT = "the ledger"


def read(data):
    return read_ledger(data, "support", WHAT)


def lived():
    """A line in which everything happened that can."""
    line = Line("support")
    for number in (1, 2, 3):
        event = steps.publication(line, f"{number:064x}", None, "new\ndata", ())
        line = Line("support", {**line.digests, number: f"{number:064x}"}, (*line.events, event))
    for step in (
        lambda line: steps.promotion(line, 2, "live", 1, "größer, besser"),
        lambda line: steps.promotion(line, 3, "canary", None, ""),
        lambda line: steps.rollback(line, "live", None, ""),
        lambda line: steps.yanking(line, 2, "leaks"),
        lambda line: steps.unyanking(line, 2, ""),
        lambda line: steps.tagging(line, 1, {"team": "a\nb", "gone": ""}),
        lambda line: steps.noting(line, 1, "said"),
        lambda line: steps.signing(line, 1, "{}"),
    ):
        line = Line("support", line.digests, (*line.events, step(line)))
    return line


def data_of(line):
    return json.loads(write_ledger(line.digests, line.events, WHAT))


def test_a_line_is_read_as_it_was_written():
    line = lived()
    assert {event.kind for event in line.events} == set(EventKind)
    found = read(write_ledger(line.digests, line.events, WHAT))
    assert found == line
    assert history_digest(found.events) == history_digest(line.events)


def test_ledgers_are_written_in_schema_2():
    assert data_of(lived())["schema_version"] == 2


def test_a_ledger_of_schema_1_is_read():
    """As the program wrote it before there were tags, notes and signatures."""
    line = lived()
    line = Line("support", line.digests, line.events[:6])
    old = data_of(line)
    old["schema_version"] = 1
    for event in old["events"]:
        del event["data"]
    assert read(json.dumps(old).encode()) == line


@pytest.mark.parametrize("version", [3, 4, 10**6])
def test_a_newer_ledger_is_refused_with_the_way_out(version):
    newer = {"schema_version": version, "whatever": "comes then"}
    with pytest.raises(
        RegistryError, match=rf"newer adaptery: it has schema {version}.*Update adaptery\."
    ):
        read(json.dumps(newer).encode())


def test_moments_of_other_time_zones_are_the_same_moments():
    old = data_of(lived())
    at = datetime.fromisoformat(old["events"][0]["at"])
    old["events"][0]["at"] = at.isoformat().replace("+00:00", "") + "+00:00"
    assert read(json.dumps(old).encode()).events[0].at == at
    old["events"][0]["at"] = "2026-01-01T02:00:00+02:00"
    assert read(json.dumps(old).encode()).events[0].at.isoformat() == "2026-01-01T00:00:00+00:00"


def event(place, **changes):
    """Changes event `place`, counted from 1."""
    return lambda ledger: ledger["events"][place - 1].update(changes)


HOSTILE = {
    "no version of the schema": (lambda d: d.update(schema_version="2a"), "schema_version"),
    "schema 0": (lambda d: d.update(schema_version=0), "schema_version"),
    "an unknown field": (lambda d: d.update(more=1), "and nothing else"),
    "an unknown field of an event": (
        event(1, more=1),
        "event 1 must have the fields id, .*, and no other",
    ),
    "a missing field": (lambda d: d["events"][0].pop("actor"), "event 1 must have the fields"),
    "no history": (lambda d: d.update(events=[]), "more versions than its history"),
    "no versions": (lambda d: d.update(versions={}), "event 1 does not publish what version 1 is"),
    "a version too many": (lambda d: d["versions"].update({"9": "9" * 64}), "not those that"),
    "versions without end": (
        lambda d: d["versions"].update({str(n): f"{n:064x}" for n in range(4, 20)}),
        "more versions than its history",
    ),
    "data without end": (event(9, data=dict.fromkeys(map(str, range(257)), "")), "more than 256"),
    "a version twice": (lambda d: d["versions"].update({"3": d["versions"]["2"]}), "are the same"),
    "no digest": (lambda d: d["versions"].update({"3": "../../etc/passwd"}), "should match"),
    "version 0": (lambda d: d["versions"].update({"0": "0" * 64}), "greater than or equal to 1"),
    "a number without end": (
        lambda d: d["versions"].update({"9" * 5000: "0" * 64}),
        "as an integer",
    ),
    "another adapter": (
        lambda d: [e.update(adapter="sales") for e in d["events"]],
        "history of 'sales'",
    ),
    "an event of another": (event(4, adapter="sales"), "event 4 is one of 'sales'"),
    "a name as a path": (event(4, adapter="../support"), "cannot name an adapter"),
    "an event twice": (lambda d: d["events"].insert(4, d["events"][3]), "event 5 has the id 4"),
    "an event less": (lambda d: d["events"].pop(3), "event 4 has the id 5"),
    "another order": (lambda d: d["events"].reverse(), "event 1 has the id 11"),
    "an unknown kind": (event(4, kind="exploded"), "kind: Input should be"),
    "an alias that is a path": (event(4, alias="../live"), "cannot be an alias"),
    "the alias latest": (event(4, alias="latest"), "cannot be an alias"),
    "a move without an alias": (event(4, alias=None), "event 4 moves no alias"),
    "a move from elsewhere": (event(4, previous=3), "event 4 moves the alias 'live' from where"),
    "a generation left out": (event(4, generation=3), "event 4 moves the alias 'live' from where"),
    "a generation of nothing": (event(2, generation=1), "event 2 moves no alias"),
    "a note that moves": (event(10, alias="live", generation=4), "although it is 'noted'"),
    "a version that never was": (event(4, number=7), "event 4 is about version 7, which was not"),
    "a version from later": (event(2, number=3), "event 2 does not publish what version 3 is"),
    "a version again": (event(2, number=1, data={"digest": "1".zfill(64)}), "version 1 again"),
    "a huge number": (event(4, number=10**9), "less than 1000000000"),
    "an escape in a reason": (event(4, reason="\x1b[2J"), "cannot hold the character"),
    "text that runs backwards": (event(4, reason="a\u202eb"), "cannot hold the character"),
    "a long reason": (event(4, reason="a" * 4097), "at most 4096 are kept"),
    "a bell as an actor": (event(4, actor="\x07"), "cannot hold the character"),
    "a moment without a zone": (event(4, at="2026-01-01T00:00:00"), "timezone"),
    "no moment": (event(4, at="yesterday"), "at: Input should be a valid datetime"),
    "a signature that is none": (event(11, data={}), "event 11 has no signature"),
    "a tag that is none": (event(9, data={"a b": "c"}), "event 9 'a b' cannot be a tag"),
    "a tag with an escape": (event(9, data={"a": "\x1b"}), "cannot hold the character"),
    "a promotion with data": (event(4, data={"a": "b"}), "event 4 has data"),
    "a list": (lambda d: d.update(versions=[1]), "must have a schema_version, versions and events"),
}


@pytest.mark.parametrize(("harm", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_a_history_that_cannot_have_happened_is_refused(harm, sentence):
    ledger = data_of(lived())
    harm(ledger)
    with pytest.raises(CorruptFile, match=f"the ledger cannot be read.*{sentence}") as refused:
        read(json.dumps(ledger).encode())
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"1" * 5000,
        b"[" * 10**5,
        b'{"events":' * 10**5,
        b'{"schema_version": 1e999}',
        b'{"schema_version": NaN}',
        b'{"schema_version": true, "versions": {}, "events": []}',
        b'{"schema_version": 2, "schema_version": 2, "versions": {}, "events": []}',
        b'{"schema_version": 2, "versions": {}, "events": [], "\\ud800": 1}',
    ],
    ids=repr,
)
def test_what_is_no_ledger_is_refused_in_a_sentence(data):
    with pytest.raises(CorruptFile, match="the ledger cannot be read") as refused:
        read(data)
    assert len(str(refused.value)) < 600


def test_an_empty_history_is_one():
    assert read(b'{"schema_version": 2, "versions": {}, "events": []}') == Line("support")


@settings(deadline=None)
@given(st.data())
def test_whatever_is_changed_it_is_a_ledger_or_refused(data):
    """Any one value replaced by any other: a sentence, or a line that can be used."""
    ledger = data_of(lived())
    places = [(ledger, key) for key in ledger]
    places += [(each, key) for each in ledger["events"] for key in each]
    places += [(ledger["versions"], key) for key in ledger["versions"]]
    holder, key = data.draw(st.sampled_from(places))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(st.text(), v))
    holder[key] = data.draw(values)
    try:
        line = read(json.dumps(ledger).encode())
    except (CorruptFile, RegistryError):
        return
    assert line.aliases.keys() <= {"live", "canary"}
    for number in line.digests:
        line.standing(number)


def test_a_ledger_does_not_outgrow_what_is_read():
    note = Event(1, "support", EventKind.NOTED, 1, None, None, None, "a", datetime.now(UTC), "x")
    first = steps.publication(Line("support"), "1" * 64, None, "", ())
    notes = [
        Event(place, *[getattr(note, each) for each in note.__slots__[1:-2]], "x" * 4096)
        for place in range(2, MAX_LEDGER // 4096 + 2)
    ]
    with pytest.raises(RegistryError, match=rf"at most {MAX_LEDGER} are kept"):
        write_ledger({1: "1" * 64}, [first, *notes], WHAT)
