"""Formats whose rows are texts: to go on with, or to tell the class of."""

from collections.abc import Mapping
from typing import Any

from adaptery.trainers.data.chat import conversation, messages_of, refuse_unsupported
from adaptery.trainers.data.columns import first_of, label, text
from adaptery.trainers.data.rows import Completion, Conversation, Labelled


class PromptCompletion:
    """`prompt` and `completion`: two texts, or two lists of messages."""

    needs = "prompt and completion (texts, or lists of messages)"

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        return "prompt" in record and "completion" in record

    def parse(self, record: Mapping[str, Any], origin: str) -> Completion | Conversation:
        kinds = {isinstance(record.get(column), list) for column in ("prompt", "completion")}
        if kinds == {True, False}:
            raise ValueError("prompt and completion must both be texts, or both lists of messages.")
        if kinds == {True}:
            return self.chat(record, origin)
        prompt, completion = text(record, "prompt", empty=True), text(record, "completion")
        return Completion(prompt, completion, origin)

    def chat(self, record: Mapping[str, Any], origin: str) -> Conversation:
        refuse_unsupported(record)
        prompt, completion = messages_of(record, "prompt"), messages_of(record, "completion")
        if [message.role for message in completion] != ["assistant"]:
            raise ValueError("the completion must be one message, the assistant's.")
        if any(message.role == "assistant" for message in prompt):
            raise ValueError(
                "the prompt holds an answer, which would be learned too. Put all into one column "
                "messages if that is meant."
            )
        return conversation([*prompt, *completion], origin)


class Text:
    """`text` alone: all of it is learned."""

    needs = "text, and no label"

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        return "text" in record and "label" not in record

    def parse(self, record: Mapping[str, Any], origin: str) -> Completion:
        return Completion("", text(record, "text"), origin)


class TextLabel:
    """A text and its class: `text` or `sentence`, and `label`."""

    needs = "text (or sentence) and label"

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        return "label" in record and ("text" in record or "sentence" in record)

    def parse(self, record: Mapping[str, Any], origin: str) -> Labelled:
        column = first_of(record, "text", "sentence")
        return Labelled((text(record, column),), label(record), origin)


class Pair:
    """Two texts and their class: `text1` and `text2`, or `sentence1` and `sentence2`; `label`."""

    needs = "text1 and text2 (or sentence1 and sentence2) and label"

    def recognizes(self, record: Mapping[str, Any]) -> bool:
        texts = ({"text1", "text2"} <= record.keys(), {"sentence1", "sentence2"} <= record.keys())
        return "label" in record and any(texts)

    def parse(self, record: Mapping[str, Any], origin: str) -> Labelled:
        columns = first_of(record, "text1", "sentence1"), first_of(record, "text2", "sentence2")
        one, two = (text(record, column) for column in columns)
        return Labelled((one, two), label(record), origin)
