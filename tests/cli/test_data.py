"""`adapters data`: checks and previews, without a weight."""

import json
import os
import pty
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from adaptery.base_model import open_tokenizer
from adaptery.cli.main import run
from tests.command import Outcome, adapters, done
from tests.models import write_rows
from tests.trainers.data.reading import write, write_json
from tests.trainers.runs import rows

PAIRS = [{"text1": f"text {n}", "text2": f"other {n}", "label": int(n % 3 == 0)} for n in range(30)]


@pytest.fixture
def tokenizer_alone(tiny_base: Path, tmp_path: Path) -> Path:
    """A base's directory without its weights."""
    directory = tmp_path / "base"
    directory.mkdir()
    for file in tiny_base.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    return directory


def refused(*arguments: object) -> Outcome:
    outcome = adapters("data", "check", *arguments)
    assert outcome.code == 3, outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    return outcome


def codes(outcome: Outcome) -> set[str]:
    return {finding["code"] for finding in outcome.json["findings"]}


def test_sound_files_pass_without_a_base(tmp_path: Path) -> None:
    train = write_json(tmp_path / "train.jsonl", PAIRS[:20])
    test = write_json(tmp_path / "test.jsonl", PAIRS[20:])
    outcome = done("data", "check", train, test)
    assert "No error found." in outcome.out
    assert "task 'pair'" in outcome.err  # told by the columns
    report = done("data", "check", train, test, "--json").json
    assert report["ok"]
    assert [file["rows"] for file in report["files"]] == [20, 10]
    assert report["files"][0]["format"] == "pair"
    assert report["files"][0]["classes"] == {"0": 13, "1": 7}
    assert report["files"][0]["tokens"] is None


def test_with_a_base_tokens_are_counted_and_no_weight_is_needed(
    tokenizer_alone: Path, tmp_path: Path
) -> None:
    train = write_rows(tmp_path / "train.jsonl", rows(20))
    report = done("data", "check", train, "--base", tokenizer_alone, "--json").json
    tokens = report["files"][0]["tokens"]
    assert tokens["end_share"] == 1.0
    assert tokens["lengths"]["max"] == 23
    assert tokens["learned"] > 20
    table = done("data", "check", train, "--base", tokenizer_alone).out
    assert re.search(r"too long +BOS +end", table)
    assert re.search(r"messages +20 .* 23 +0 +0% +100%", table)


def test_leakage_is_exit_3_with_lines(tmp_path: Path) -> None:
    train = write_json(tmp_path / "train.jsonl", PAIRS[:20])
    leaking = [*PAIRS[20:], {**PAIRS[3], "label": 0}]
    test = write_json(tmp_path / "test.jsonl", leaking)
    outcome = refused(train, test)
    assert f"{test}:11 is {train}:4, with another answer" in outcome.out
    assert "1 error(s)" in outcome.out
    report = refused(train, test, "--json").json
    assert not report["ok"]
    (finding,) = report["findings"]
    assert finding["code"] == "leakage"
    assert finding["count"] == 1
    assert finding["places"] == [f"{test}:11 is {train}:4, with another answer"]


def test_all_defects_of_all_files_are_told_at_once(tokenizer_alone: Path, tmp_path: Path) -> None:
    broken = write(tmp_path / "broken.jsonl", '{"text": "a", "label": 1}', "{", '{"text": "b"}')
    empty = write(tmp_path / "empty.jsonl")
    single = write_json(tmp_path / "one.jsonl", [{"text": f"{n}", "label": 1} for n in range(4)])
    outcome = refused(single, broken, empty, tmp_path / "missing.csv", "--json")
    assert codes(outcome) == {
        *("malformed-row", "missing-column", "unreadable-file", "single-class"),
    }
    files = " ".join(finding["message"] for finding in outcome.json["findings"])
    assert "missing.csv" in files
    assert "empty.jsonl" in files
    refused(single, broken, empty, "--base", tokenizer_alone)


def test_label_words_are_counted_in_tokens(tokenizer_alone: Path, tmp_path: Path) -> None:
    train = write_json(tmp_path / "train.jsonl", PAIRS)
    base = ("--base", tokenizer_alone)
    uneven = refused(train, *base, "--set", "task.words={'0': blue, '1': colourless}", "--json")
    (finding,) = [f for f in uneven.json["findings"] if f["code"] == "label-words"]
    (proposed,) = re.findall(r"task\.words=(\{.*?\})", finding["remedy"])
    report = done("data", "check", train, *base, "--set", f"task.words={proposed}", "--json").json
    lengths = {len(ids) for ids in report["words"].values()}
    assert len(lengths) == 1
    assert report["words"].keys() == {"0", "1"}
    table = done("data", "check", train, *base, "--set", f"task.words={proposed}").out
    assert "tokens of its word" in table


def test_too_long_rows_are_exit_3_unless_dropped(tokenizer_alone: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", rows(20))
    short = ("--base", tokenizer_alone, "--max-length", 20)
    assert codes(refused(train, *short, "--json")) == {"too-long"}
    dropped = done("data", "check", train, *short, "--set", "data.too_long=drop", "--json").json
    assert dropped["files"][0]["tokens"]["too_long"] == 6


def test_a_runs_configuration_names_files_base_and_task(
    tokenizer_alone: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "train.jsonl", [{"headline": f"{n}", "topic": n % 2} for n in range(9)])
    write_json(tmp_path / "eval.jsonl", [{"headline": f"{n}", "topic": n % 2} for n in (20, 21)])
    config = tmp_path / "run.yaml"
    config.write_text(
        f"name: topics\nbase: {tokenizer_alone}\n"
        "task: {kind: classify, words: {'0': A, '1': B}}\n"
        f"data:\n  train: {tmp_path}/train.jsonl\n  eval: {tmp_path}/eval.jsonl\n"
        "  columns: {text: headline, label: topic}\n"
    )
    report = done("data", "check", "--config", config, "--json").json
    assert [file["rows"] for file in report["files"]] == [9, 2]
    assert report["words"].keys() == {"0", "1"}
    other = refused("--config", config, "--task", "pair", "--json").json
    assert "takes 2" in json.dumps(other["findings"])


def test_a_task_that_the_configuration_leaves_open_is_what_training_would_take(
    tokenizer_alone: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    train = write_json(tmp_path / "train.jsonl", PAIRS)
    config.write_text(f"name: pairs\nbase: {tokenizer_alone}\ndata: {{train: {train}}}\n")
    assert codes(refused("--config", config, "--json")) == {"wrong-task"}


def test_what_is_asked_wrongly_is_exit_2(tiny_base: Path, tmp_path: Path) -> None:
    train = write_json(tmp_path / "train.jsonl", PAIRS)
    for arguments in (
        ("check",),
        ("check", train, "--base", tmp_path / "nowhere"),
        ("check", train, "--format", "pears"),
        ("check", train, "--task", "sort"),
        ("check", train, "--max-length", "0"),
        ("check", train, "--set", "data.colums={text: a}"),
        ("preview", train),
        ("preview", "--base", tiny_base),
        ("preview", train, "--base", tiny_base, "--task", "pair", "-n", "0"),
    ):
        outcome = adapters("data", *arguments)
        assert outcome.code == 2, arguments
        assert "Traceback" not in outcome.err


def test_a_preview_marks_what_is_learned(tokenizer_alone: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", rows(20))
    shown = done("data", "preview", train, "--base", tokenizer_alone, "--mask", "-n", 2).out
    assert shown.count("──") == 2
    assert f"{train}:2: 16 tokens, " in shown
    assert (
        "<|im_start|>user\nthe sky 1<|im_end|>\n<|im_start|>assistant\n⟦yellow<|im_end|>⟧\n"
        in shown
    )
    plain = done("data", "preview", train, "--base", tokenizer_alone, "-n", 1).out
    assert "⟦" not in plain
    assert "blue<|im_end|>" in plain


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_what_is_learned_is_coloured(
    tokenizer_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    train = write_rows(tmp_path / "train.jsonl", rows(1))
    terminal, end = pty.openpty()
    with os.fdopen(end, "w") as screen, redirect_stdout(screen):
        run(["data", "preview", str(train), "--base", str(tokenizer_alone), "--mask"])
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert ("\x1b[1;32mblue<|im_end|>\x1b[0m" in shown) is not bool(no_color)
    assert ("⟦blue<|im_end|>⟧" in shown) is bool(no_color)


def test_a_preview_as_data_is_exact(tokenizer_alone: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [[("user", "日本\x1b[31m"), ("assistant", "é")]])
    (row,) = done("data", "preview", train, "--base", tokenizer_alone, "--json").json
    tokenizer = open_tokenizer(str(tokenizer_alone))
    assert row["text"] == tokenizer.decode(row["ids"])
    assert "日本\x1b[31m" in row["text"]
    assert row["tokens"] == tokenizer.convert_ids_to_tokens(row["ids"])
    learned = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(learned) == "é<|im_end|>"
    assert row["learned"] == len(learned)


def test_a_preview_obeys_no_control_character(tokenizer_alone: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [[("user", "\x1b[31mred"), ("assistant", "a")]])
    shown = done("data", "preview", train, "--base", tokenizer_alone, "--mask").out
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown


def test_a_preview_of_classes_shows_the_question_and_the_class(
    tokenizer_alone: Path, tmp_path: Path
) -> None:
    train = write_json(tmp_path / "train.jsonl", PAIRS)
    words = ("--set", "task.words={'0': A, '1': B}")
    shown = done("data", "preview", train, "--base", tokenizer_alone, "--mask", "-n", 1, *words).out
    assert "Text 1: text 0\nText 2: other 0<|im_end|>" in shown
    assert "⟦B<|im_end|>⟧" in shown
    assert "class '1'" in shown
    head = done(
        *("data", "preview", train, "--base", tokenizer_alone, "--json", "-n", 1),
        *("--task", "pair", "--way", "head"),
    ).json
    assert head[0]["class"] == 1
    assert set(head[0]["labels"]) == {-100}


def test_plain_text_is_learned_whole(tokenizer_alone: Path, tmp_path: Path) -> None:
    train = write_json(tmp_path / "train.jsonl", [{"text": "the sky\nis blue"}])
    shown = done("data", "preview", train, "--base", tokenizer_alone, "--mask").out
    assert "⟦the sky\nis blue<|im_end|>⟧" in shown


JUNK = {
    "empty.jsonl": b"",
    "blank.csv": b"\n\n",
    "binary.jsonl": bytes(range(256)) * 8,
    "cut.parquet": b"PAR1" + b"x" * 90,
    "latin.csv": "text,label\nCaf\xe9,1\n".encode("latin-1"),
    "cut.jsonl": b'{"text": "a", "label": 1}\n{"text": "b", "la',
    "ragged.csv": b"text,label\na,1\nb,2,3\n",
    "column.jsonl": b'{"text": "a", "label": 1}\n{"text": "b"}\n',
}


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("command", ["check", "train"])
def test_files_that_are_none_are_exit_3_and_named(
    tiny_base: Path, tmp_path: Path, name: str, command: str
) -> None:
    path = tmp_path / name
    path.write_bytes(JUNK[name])
    runs = tmp_path / "runs"
    arguments = {
        "check": ("data", "check", path),
        "train": (*("train", "--name", "x", "--base", tiny_base), "--data", path, "--runs", runs),
    }[command]
    outcome = adapters(*arguments, *(("--no-publish",) if command == "train" else ()))
    assert outcome.code == 3
    said = outcome.out + outcome.err
    assert str(path) in said
    assert "Traceback" not in said
    assert not runs.exists()
