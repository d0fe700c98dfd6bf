"""What each format makes of a record, and how a file's format is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptery.errors import DataError, UnknownName
from adaptery.trainers.data.rows import Completion, Conversation, Labelled, Message, data_digest
from tests.models import write_rows
from tests.trainers.data.reading import (
    ANSWER,
    GOOD,
    USER,
    complaint,
    formats,
    one,
    read,
    write,
    write_json,
)


def row(*messages: object) -> str:
    return json.dumps({"messages": messages})


def turns(conversation: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def test_messages_are_read_in_order_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, "", "  ", row(USER, {**ANSWER, "content": "b"}), "")
    data = read(path)
    assert data.format == "messages"
    assert [r.origin for r in data.rows] == [f"{path}:1", f"{path}:4"]
    assert data.rows[0] == Conversation(
        (Message("user", "q"), Message("assistant", "a")), f"{path}:1"
    )


@pytest.mark.parametrize(
    ("line", "complaint_of_it"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ("5", "not an object"),
        ('{"message": []}', "'messages' is missing"),
        ('{"messages": {}}', "must be a list"),
        ('{"messages": null}', "'messages' is empty"),
        (row(), "the last message must be the assistant's"),
        (row("text"), "role and content"),
        (row(USER), "the last message must be the assistant's"),
        (row(ANSWER, USER), "the last message must be the assistant's"),
        (row(ANSWER), "no message has the role 'user'"),
        (row({"content": "q"}, ANSWER), "role None"),
        (row({"role": "human", "content": "q"}, ANSWER), "role 'human'"),
        (row({"role": ["user"], "content": "q"}, ANSWER), "role ['user']"),
        (row({"role": "user"}, ANSWER), "must be text, not NoneType"),
        (row({"role": "user", "content": ["q"]}, ANSWER), "must be text, not list"),
        (row(USER, {"role": "assistant", "content": " \n"}), "an assistant message is empty"),
        (row(USER, {"role": "assistant", "content": ""}), "an assistant message is empty"),
        (row(USER, {**ANSWER, "weight": 0}), "'weight'"),
        (row(USER, {**ANSWER, "tool_calls": []}), "'tool_calls'"),
        (json.dumps({"messages": [USER, ANSWER], "tools": []}), "'tools'"),
        (row({"role": "user", "content": "half a \ud800 character"}, ANSWER), "surrogate"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_defect(
    tmp_path: Path, line: str, complaint_of_it: str
) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, line, GOOD)
    message = complaint(path)
    assert f"{path}:2: " in message
    assert complaint_of_it in message
    assert f"{path}:3" not in message


def test_many_malformed_rows_are_counted_and_the_first_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *["{"] * 12)
    message = complaint(path)
    assert message.startswith(f"12 row(s) of {path} cannot be read")
    assert f"{path}:5: " in message
    assert f"{path}:6: " not in message
    assert message.endswith("… and 7 more.")


def test_prompt_and_answer_are_of_the_last_assistant_turn(tmp_path: Path) -> None:
    chat = [("system", "s"), ("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "b")]
    (conversation,) = read(write_rows(tmp_path / "d.jsonl", [chat])).rows
    assert isinstance(conversation, Conversation)
    assert conversation.answer == "b"
    assert [m.content for m in conversation.prompt] == ["s", "1", "a", "2"]


def test_sharegpt_speakers_become_roles(tmp_path: Path) -> None:
    said = [("human", "1"), ("gpt", "a"), ("user", "2"), ("observation", "o"), ("assistant", "b")]
    turns_of_it = [{"from": speaker, "value": text} for speaker, text in said]
    data = one(tmp_path, {"conversations": turns_of_it, "system": "s", "id": 7})
    assert data.format == "sharegpt"
    assert turns(data.rows[0]) == [
        ("system", "s"),
        ("user", "1"),
        ("assistant", "a"),
        ("user", "2"),
        ("tool", "o"),
        ("assistant", "b"),
    ]


@pytest.mark.parametrize(
    ("turn", "complaint_of_it"),
    [
        ({"from": "function_call", "value": "f()"}, "'function_call'"),
        ({"value": "x"}, "'from' is None"),
        ({"from": "gpt", "value": None}, "must be text"),
        ({"from": "gpt", "value": "a", "loss": False}, "'loss'"),
        ("text", "from and value"),
    ],
)
def test_a_sharegpt_turn_that_is_not_understood_is_refused(
    tmp_path: Path, turn: object, complaint_of_it: str
) -> None:
    path = write_json(
        tmp_path / "d.jsonl", [{"conversations": [{"from": "human", "value": "q"}, turn]}]
    )
    assert complaint_of_it in complaint(path)


def test_alpaca_joins_instruction_and_input_and_puts_history_before(tmp_path: Path) -> None:
    record = {
        "system": "s",
        "history": [["q1", "a1"]],
        "instruction": "translate",
        "input": "bonjour",
        "output": "hello",
    }
    data = one(tmp_path, record)
    assert data.format == "alpaca"
    assert turns(data.rows[0]) == [
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "translate\nbonjour"),
        ("assistant", "hello"),
    ]
    bare = one(tmp_path, {"instruction": "greet", "input": "", "output": "hello"})
    assert turns(bare.rows[0]) == [("user", "greet"), ("assistant", "hello")]


@pytest.mark.parametrize(
    ("change", "complaint_of_it"),
    [
        ({"history": ["q"]}, "pairs"),
        ({"output": ["good", "bad"]}, "must be text, not list"),
        ({"output": ""}, "empty"),
        ({"instruction": 5}, "'instruction' must be text"),
    ],
)
def test_a_malformed_alpaca_row_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint_of_it: str
) -> None:
    record = {"instruction": "i", "output": "o"} | change
    assert complaint_of_it in complaint(write_json(tmp_path / "d.jsonl", [record]))


def test_prompt_and_completion_as_texts_and_as_messages(tmp_path: Path) -> None:
    texts = one(tmp_path, {"prompt": "1 + 1 =", "completion": " 2"})
    assert texts.format == "prompt-completion"
    (completion,) = texts.rows
    assert completion == Completion("1 + 1 =", " 2", completion.origin)
    chat = one(tmp_path, {"prompt": [USER], "completion": [ANSWER]})
    assert turns(chat.rows[0]) == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("prompt", "completion", "complaint_of_it"),
    [
        ("q", [ANSWER], "both"),
        ([USER, ANSWER, USER], [ANSWER], "would be learned too"),
        ([USER], [ANSWER, USER, ANSWER], "one message"),
        ([USER], [USER], "one message"),
        ("q", " ", "'completion' is an empty text"),
        (5, "a", "'prompt' must be text"),
    ],
)
def test_a_prompt_and_completion_that_would_teach_something_else_are_refused(
    tmp_path: Path, prompt: object, completion: object, complaint_of_it: str
) -> None:
    record = {"prompt": prompt, "completion": completion}
    assert complaint_of_it in complaint(write_json(tmp_path / "d.jsonl", [record]))


def test_plain_text_has_no_prompt(tmp_path: Path) -> None:
    data = one(tmp_path, {"text": "Once upon a time", "source": "a book"})
    assert data.format == "text"
    (row_of_it,) = data.rows
    assert row_of_it == Completion("", "Once upon a time", row_of_it.origin)


@pytest.mark.parametrize("column", ["text", "sentence"])
def test_a_text_and_its_label(tmp_path: Path, column: str) -> None:
    data = one(tmp_path, {column: "nice", "label": "good"})
    assert data.format == "text-label"
    assert data.rows == [Labelled(("nice",), "good", data.rows[0].origin)]


@pytest.mark.parametrize("column", ["text", "sentence"])
def test_a_pair_and_its_label(tmp_path: Path, column: str) -> None:
    data = one(tmp_path, {f"{column}1": "a cat", f"{column}2": "a feline", "label": 1})
    assert data.format == "pair"
    assert data.rows == [Labelled(("a cat", "a feline"), "1", data.rows[0].origin)]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        (-1, "-1"),
        (True, "true"),
        (False, "false"),
        ("0", "0"),
        (" good ", "good"),
        ("True", "True"),
    ],
)
def test_labels_become_text_in_one_way(tmp_path: Path, label: object, text: str) -> None:
    (row_of_it,) = one(tmp_path, {"text": "t", "label": label}).rows
    assert isinstance(row_of_it, Labelled)
    assert row_of_it.label == text


@pytest.mark.parametrize("label", [0.5, float("nan"), float("inf"), ["a"], {"a": 1}, "", " ", None])
def test_what_is_no_class_is_refused(tmp_path: Path, label: object) -> None:
    path = write_json(tmp_path / "d.jsonl", [{"text": "t", "label": label}])
    assert "'label'" in complaint(path)


def test_a_missing_column_names_file_line_and_columns(tmp_path: Path) -> None:
    records = [{"text": "t", "label": "a"}, {"text": "t", "lable": "a"}]
    message = complaint(write_json(tmp_path / "d.jsonl", records))
    assert "d.jsonl:2: the column 'label' is missing; there are: text, lable" in message
    assert "data.columns" in message


def test_an_unknown_layout_names_its_columns_and_what_each_format_needs(tmp_path: Path) -> None:
    message = complaint(write_json(tmp_path / "d.jsonl", [{"headline": "h", "topic": "t"}]))
    assert "the columns headline, topic, which fit no format" in message
    assert "data.columns={text: sentence}" in message
    for name, format in formats().items():
        assert f"  {name}: {format.needs}" in message


def test_a_layout_of_several_formats_asks_for_a_choice(tmp_path: Path) -> None:
    record = {"messages": [USER, ANSWER], "text": "q a"}
    path = write_json(tmp_path / "d.jsonl", [record])
    message = complaint(path)
    assert "fit several formats: messages, text" in message
    assert "data.format" in message
    assert read(path, format="text").rows[0].content()["completion"] == "q a"


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.jsonl", [{"headline": "h", "topic": "t"}])
    data = read(path, columns={"text": "headline", "label": "topic"})
    assert data.rows == [Labelled(("h",), "t", f"{path}:1")]


def test_a_rename_of_a_column_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.jsonl", [{"headline": "h", "topic": "t"}])
    message = complaint(path, columns={"text": "title", "label": "topic"})
    assert "d.jsonl:1: there is no column 'title'" in message
    assert "headline" in message


def test_a_format_can_be_given_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.jsonl", [{"text": "t", "label": "a"}])
    assert read(path, format="text").format == "text"
    with pytest.raises(UnknownName, match=r"'txt'.*Did you mean 'text'"):
        read(path, format="txt")


def test_the_digest_is_of_the_rows_not_of_the_file(tmp_path: Path) -> None:
    first = write(tmp_path / "one.jsonl", GOOD, GOOD)
    other = write(tmp_path / "other.jsonl", "", GOOD.replace(": ", ":"), "", GOOD)
    longer = write(tmp_path / "longer.jsonl", GOOD, GOOD, GOOD)
    digests = [read(path).digest for path in (first, other, longer)]
    assert digests[0] == digests[1] != digests[2]


def test_where_one_message_ends_counts_in_the_digest() -> None:
    parts = [Message("user", "a"), Message("assistant", "b")]
    joined = [Conversation((*parts, *parts), "o")]
    apart = [Conversation(tuple(parts), "o"), Conversation(tuple(parts), "o")]
    assert data_digest(joined) != data_digest(apart)


def test_what_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read(tmp_path / "missing.jsonl")
