"""Conversations, and reading them from chat `messages` in JSON Lines."""

import json
from pathlib import Path
from typing import Any

from adaptery.errors import DataError
from adaptery.trainers.data.rows import Conversation, Message, summarize

ROLES = ("system", "user", "assistant", "tool")
UNSUPPORTED = ("tools", "functions", "documents")  # keys of a row that chat templates render


def read_messages(path: Path) -> list[Conversation]:
    """Read JSON Lines whose rows are `{"messages": [{"role": …, "content": …}, …]}`.

    Raises:
        DataError: the file cannot be read or is empty, or rows are malformed; the message names
            file, line and what is wrong for the first few, and counts the rest.
    """
    rows: list[Conversation] = []
    findings: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            rows.append(Conversation(parse_row(line), origin))
        except ValueError as error:
            findings.append(f"{origin}: {error}")
    if findings:
        raise DataError(summarize(f"{len(findings)} malformed row(s) in {path}:", findings))
    if not rows:
        raise DataError(f"{path} holds no rows.")
    return rows


def read_lines(path: Path) -> list[str]:
    try:
        # splitlines() would also split at U+2028 and the like, which may stand inside JSON strings.
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The data file {path} cannot be read: {error}") from error


def parse_row(line: str) -> tuple[Message, ...]:
    """One row. Raises `ValueError` with what is wrong in words."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}).") from error
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise ValueError('expected an object with a list "messages".')
    for key in UNSUPPORTED:
        if key in row:
            raise ValueError(f"{key!r} would be part of what the model reads; it is not supported.")
    messages = tuple(parse_message(message) for message in row["messages"])
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the last message must be the assistant's, the answer to learn.")
    if not any(message.role == "user" for message in messages):
        raise ValueError("no message has the role 'user'.")
    return messages


def parse_message(message: Any) -> Message:
    if not isinstance(message, dict):
        raise ValueError("every message must be an object with role and content.")
    role, content = message.get("role"), message.get("content")
    strange = sorted(message.keys() - {"role", "content"})
    if strange:
        raise ValueError(
            f"a message has the key {strange[0]!r}; only role and content are understood."
        )
    if role not in ROLES:
        raise ValueError(f"role {role!r} is none of {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise ValueError(
            f"the content of a {role} message must be text, not {type(content).__name__}."
        )
    content.encode()  # a ValueError if it holds half a character, a lone surrogate
    if role == "assistant" and not content.strip():
        raise ValueError("an assistant message is empty.")
    return Message(role, content)
