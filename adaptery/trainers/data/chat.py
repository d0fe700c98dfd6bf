"""Formats whose rows are conversations."""

from collections.abc import Mapping
from typing import Any

from adaptery.errors import brief
from adaptery.trainers.data.columns import need, optional_text, text
from adaptery.trainers.data.rows import Conversation, Message

ROLES = ("system", "user", "assistant", "tool")
UNSUPPORTED = ("tools", "functions", "documents")  # columns that chat templates render
SPEAKERS = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
}


class Messages:
    """`{"messages": [{"role": …, "content": …}, …]}`, as OpenAI and TRL have it."""

    needs = 'messages (a list of {"role", "content"})'

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        return "messages" in record

    def parse(self, record: Mapping[str, Any], origin: str) -> Conversation:
        refuse_unsupported(record)
        return conversation(messages_of(record, "messages"), origin)


class ShareGPT:
    """`{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`."""

    needs = 'conversations (a list of {"from", "value"}), and if wanted system'

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        return "conversations" in record

    def parse(self, record: Mapping[str, Any], origin: str) -> Conversation:
        refuse_unsupported(record)
        turns = [self.turn(turn) for turn in list_of(record, "conversations")]
        return conversation([*system_of(record), *turns], origin)

    def turn(self, turn: Any) -> Message:
        turn = present(turn, {"from", "value"})
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise ValueError(f"'from' is {brief(speaker)}, which is none of {', '.join(SPEAKERS)}.")
        return message(SPEAKERS[speaker], turn.get("value"))


class Alpaca:
    """`instruction`, `input` and `output`; earlier turns in `history` as pairs of texts."""

    needs = "instruction, output, and if wanted input, system, history (pairs of texts)"

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        return "instruction" in record and "output" in record

    def parse(self, record: Mapping[str, Any], origin: str) -> Conversation:
        refuse_unsupported(record)
        question = [text(record, "instruction"), optional_text(record, "input")]
        asked = message("user", "\n".join(part for part in question if part))
        answer = message("assistant", need(record, "output"))
        return conversation([*system_of(record), *self.history(record), asked, answer], origin)

    def history(self, record: Mapping[str, Any]) -> list[Message]:
        """Earlier turns."""
        if not record.get("history"):
            return []
        turns: list[Message] = []
        for pair in list_of(record, "history"):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ValueError("history must be a list of pairs: question and answer.")
            turns += [message("user", pair[0]), message("assistant", pair[1])]
        return turns


def conversation(messages: list[Message], origin: str) -> Conversation:
    """Messages that have something to learn. Raises `ValueError`."""
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the last message must be the assistant's, the answer to learn.")
    if not any(message.role == "user" for message in messages):
        raise ValueError("no message has the role 'user'.")
    return Conversation(tuple(messages), origin)


def messages_of(record: Mapping[str, Any], column: str) -> list[Message]:
    """A column of messages. Raises `ValueError`."""
    return [parse_message(item) for item in list_of(record, column)]


def parse_message(item: Any) -> Message:
    """One message of role and content. Raises `ValueError`."""
    item = present(item, {"role", "content"})
    role = item.get("role")
    if role not in ROLES:
        raise ValueError(f"role {brief(role)} is none of {', '.join(ROLES)}.")
    return message(role, item.get("content"))


def message(role: str, content: Any) -> Message:
    """A message. Raises `ValueError` if its content is no text, or an answer is empty."""
    if not isinstance(content, str):
        raise ValueError(
            f"the content of a {role} message must be text, not {type(content).__name__}."
        )
    content.encode()  # a ValueError if it holds half a character, a lone surrogate
    if role == "assistant" and not content.strip():
        raise ValueError("an assistant message is empty.")
    return Message(role, content)


def present(item: Any, understood: set[str]) -> dict[str, Any]:
    """The keys of a message that hold something. Raises `ValueError` on one not understood."""
    names = " and ".join(sorted(understood, reverse="role" in understood))
    if not isinstance(item, dict):
        raise ValueError(f"every message must be an object with {names}.")
    held = {key: value for key, value in item.items() if value is not None}
    strange = sorted(held.keys() - understood)
    if strange:
        raise ValueError(f"a message has the key {strange[0]!r}; only {names} are understood.")
    return held


def list_of(record: Mapping[str, Any], column: str) -> list[Any]:
    """A column that holds a list. Raises `ValueError`."""
    value = need(record, column)
    if not isinstance(value, list):
        raise ValueError(f"{column!r} must be a list, not {type(value).__name__}.")
    return value


def system_of(record: Mapping[str, Any]) -> list[Message]:
    """The system message of a column of its own."""
    content = optional_text(record, "system")
    return [Message("system", content)] if content else []


def refuse_unsupported(record: Mapping[str, Any]) -> None:
    for column in UNSUPPORTED:
        if record.get(column) is not None:
            raise ValueError(
                f"{column!r} would be part of what the model reads; it is not supported."
            )
