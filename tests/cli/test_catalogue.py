"""`list`, `show`, `history`, `diff` and what is said of versions, on adapters made by hand."""

from pathlib import Path

import pytest

from adaptery.registry.local import LocalRegistry
from tests.adapters import make_adapter
from tests.command import Outcome, adapters, done


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`support` with three versions, the first live, and `other` with one."""
    registry = LocalRegistry.open(str(tmp_path / "shelf"))
    for seed in range(1, 4):
        package = make_adapter(tmp_path / str(seed), seed=seed, metrics={"f1": 1 - seed / 10})
        registry.publish("support", package)
    registry.publish("other", make_adapter(tmp_path / "4", seed=4))
    monkeypatch.setenv("ADAPTERS_REGISTRY", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def refused(*arguments: object) -> str:
    """The sentence with which a command is refused as asked."""
    outcome: Outcome = adapters(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    return outcome.err


def first_words(outcome: Outcome) -> list[str]:
    return [line.split()[0] for line in outcome.out.splitlines()[1:]]


def test_a_list_has_a_row_per_adapter(shelf: Path) -> None:
    assert first_words(done("list")) == ["other", "support"]
    row = done("list", "--json").json[1]
    assert (row["name"], row["versions"], row["aliases"]) == ("support", 3, {"live": 1})
    assert (row["newest"]["version"], row["newest"]["yanked"]) == (3, False)
    assert row["newest"]["aliases"] == []


def test_lists_are_filtered_sorted_and_paged(shelf: Path) -> None:
    assert first_words(done("list", "--sort", "metric.f1")) == ["support", "other"]
    assert first_words(done("list", "--limit", 1, "--offset", 1)) == ["support"]
    assert first_words(done("list", "--method", "lora", "--base", "b" * 8)) == ["other", "support"]
    assert first_words(done("list", "support", "--sort", "metric.f1", "--limit", 2)) == [
        "support@1",
        "support@2",
    ]
    nothing = done("list", "--base", "org/other")
    assert (nothing.out, nothing.err) == ("", "No adapter fits.\n")
    assert done("list", "support", "--method", "qlora", "--json").json == []


def test_a_list_sorted_by_a_metric_shows_that_metric(shelf: Path) -> None:
    assert "f1 0.700" in done("list", "--sort", "metric.f1").out
    assert "Known: f1." in refused("list", "--sort", "metric.f2")
    assert "Known: f1." in refused("list", "support", "--sort", "metric.f2")
    assert "published" in refused("list", "--sort", "size")
    assert "at least 1" in refused("list", "--limit", 0)


def test_a_yanked_version_is_marked_in_lists_and_stays_readable(shelf: Path) -> None:
    told = done("yank", "support@3", "--reason", "it swears").out
    assert told == "support@3 is yanked: it swears\n"
    assert "yanked: it swears" in done("list", "support").out.splitlines()[3]
    assert [v["yanked"] for v in done("list", "support", "--json").json] == [
        None,
        None,
        "it swears",
    ]
    assert done("list", "--json").json[1]["newest"]["version"] == 2
    assert done("show", "support@3", "--json").json["standing"]["yanked"] == "it swears"
    assert adapters("promote", "support@3").code == 5
    assert "--reason" in refused("yank", "support@2")
    assert done("unyank", "support@3").out == "support@3 is no longer yanked.\n"
    assert done("list", "--json").json[1]["newest"]["version"] == 3


def test_tags_and_notes_are_shown_and_can_be_taken_away(shelf: Path) -> None:
    assert done("tag", "support@2", "task=mail", "owner=a b").out == (
        "support@2 now has owner=a b, task=mail.\n"
    )
    done("tag", "support@2", "owner=")
    done("note", "support@2", "as good as\nthe last one")
    standing = done("show", "support@2", "--json").json["standing"]
    assert standing["tags"] == {"task": "mail"}
    assert standing["notes"] == ["as good as\nthe last one"]
    shown = done("show", "support@2").out
    for part in ("tag task", "mail", "as good as ↵ the last one", "signed"):
        assert part in shown


@pytest.mark.parametrize("tags", [["task"], ["a=1", "a=2"], ["Über=1"], []])
def test_a_tag_that_is_none_is_refused(shelf: Path, tags: list[str]) -> None:
    refused("tag", "support@2", *tags)
    assert done("show", "support@2", "--json").json["standing"]["tags"] == {}


def test_every_event_is_one_line_of_the_history(shelf: Path) -> None:
    done("promote", "support@2", "--to", "canary", "--reason", "first line\nsecond line")
    done("tag", "support@2", "task=mail")
    done("note", "support@2", "a note")
    lines = done("history", "support").out.splitlines()
    events = done("history", "support", "--json").json
    assert len(lines) == 1 + len(events) == 7
    assert "first line ↵ second line" in lines[4]
    assert lines[5].rstrip().endswith("task=mail")
    assert lines[6].rstrip().endswith("a note")
    assert events[3]["reason"] == "first line\nsecond line"
    assert events[4]["data"] == {"task": "mail"}


def test_the_flag_of_a_promotion_has_two_spellings(shelf: Path) -> None:
    assert done("promote", "support@2", "--to", "canary", "--json").json["alias"] == "canary"
    assert done("promote", "support@3", "--alias", "canary", "--expect", 2, "--json").json[
        "previous"
    ]


def test_show_tells_where_the_bytes_are(shelf: Path) -> None:
    for file in done("show", "support@2", "--files", "--json").json:
        assert Path(file["location"]).stat().st_size == file["size"]
        line = next(
            line
            for line in done("show", "support@2", "--files").out.splitlines()
            if line.startswith(file["path"])
        )
        assert f"sha256:{file['sha256']}" in line
        assert file["location"] in line


def test_a_difference_is_shown_with_every_module(shelf: Path) -> None:
    text = done("diff", "support@1", "support@2").out
    for part in ("seed", "f1", "-0.1000", "layers.0.self_attn.q_proj", "cosine", "ΔW"):
        assert part in text
    found = done("diff", "support@1", "support@2", "--json").json
    assert [change["field"] for change in found["changes"]] == ["seed"]
    assert found["metrics"][0]["delta"] == pytest.approx(-0.1)
    assert len(found["weights"]["modules"]) == 2
    assert found["before"]["version"] == "support@1"


def test_a_version_does_not_differ_from_itself(shelf: Path) -> None:
    assert "are the same" in done("diff", "support", "support@1").out


@pytest.mark.parametrize(
    "command",
    [
        ["diff", "support@1", "support@9"],
        ["show", "support@9"],
        ["yank", "support@9", "--reason", "x"],
        ["note", "support@9", "x"],
        ["tag", "support@9", "a=b"],
        ["list", "support9"],
    ],
)
def test_a_reference_that_means_nothing_is_refused_with_what_there_is(
    shelf: Path, command: list[str]
) -> None:
    assert "support" in refused(*command)
