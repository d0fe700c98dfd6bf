import json
from pathlib import Path

import pytest

from adaptery.errors import DataError
from adaptery.trainers.data import Conversation, Message, data_digest, read_messages
from tests.models import write_rows

GOOD = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'


def write(path: Path, *lines: str) -> Path:
    path.write_bytes("\n".join(lines).encode())
    return path


def row(*messages: object) -> str:
    return json.dumps({"messages": messages})


USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def test_rows_are_read_in_order_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, "", "  ", row(USER, {**ANSWER, "content": "b"}), "")
    rows = read_messages(path)
    assert [r.origin for r in rows] == [f"{path}:1", f"{path}:4"]
    assert [r.answer for r in rows] == ["a", "b"]
    assert rows[0].messages == (Message("user", "q"), Message("assistant", "a"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", '"messages"'),
        ("5", '"messages"'),
        ('{"message": []}', '"messages"'),
        ('{"messages": {}}', '"messages"'),
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
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, line, GOOD)
    with pytest.raises(DataError) as error:
        read_messages(path)
    assert f"{path}:2: " in str(error.value)
    assert complaint in str(error.value)


def test_many_malformed_rows_are_counted_and_the_first_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *["{"] * 12)
    with pytest.raises(DataError) as error:
        read_messages(path)
    message = str(error.value)
    assert message.startswith(f"12 malformed row(s) in {path}:")
    assert f"{path}:5: " in message
    assert f"{path}:6: " not in message
    assert message.endswith("… and 7 more.")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_a_file_without_rows_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.jsonl"):
        read_messages(path)


def test_a_missing_file_or_a_directory_is_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_messages(path)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_separator_inside_a_string_is_no_end_of_line(tmp_path: Path, separator: str) -> None:
    content = f"one{separator}two"
    line = json.dumps({"messages": [USER, {**ANSWER, "content": content}]}, ensure_ascii=False)
    line = line.replace("\\u000b", separator).replace("\\u001c", separator)
    path = write(
        tmp_path / "d.jsonl",
        GOOD,
        line if ord(separator) > 31 else row(USER, {**ANSWER, "content": content}),
        GOOD,
    )
    rows = read_messages(path)
    assert len(rows) == 3
    assert rows[1].answer == content


def test_windows_line_ends_and_a_byte_order_mark_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert len(read_messages(path)) == 2


def test_the_digest_is_of_the_conversations_not_of_the_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", GOOD, GOOD)
    other = write(tmp_path / "other.jsonl", "", GOOD.replace(": ", ":"), "", GOOD)
    longer = write(tmp_path / "longer.jsonl", GOOD, GOOD, GOOD)
    digests = [data_digest(read_messages(path)) for path in (one, other, longer)]
    assert digests[0] == digests[1] != digests[2]


def test_where_one_message_ends_counts_in_the_digest() -> None:
    parts = [Message("user", "a"), Message("assistant", "b")]
    joined = [Conversation((*parts, *parts), "o")]
    apart = [Conversation(tuple(parts), "o"), Conversation(tuple(parts), "o")]
    assert data_digest(joined) != data_digest(apart)


def test_prompt_and_answer_are_of_the_last_assistant_turn(tmp_path: Path) -> None:
    turns = [("system", "s"), ("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "b")]
    (conversation,) = read_messages(write_rows(tmp_path / "d.jsonl", [turns]))
    assert conversation.answer == "b"
    assert [m.content for m in conversation.prompt] == ["s", "1", "a", "2"]
