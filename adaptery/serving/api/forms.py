"""The forms in which a request can have its answer: OpenAI's `response_format`, and what vLLM calls
`structured_outputs`."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from adaptery.serving.api.body import Body, Refusal
from adaptery.serving.grammar import Grammar

Choice = Annotated[str, Field(min_length=1)]


class NamedSchema(Body):
    """A JSON schema. Answers are held to it whether it is called strict or not."""

    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool = False

    @classmethod
    def where(cls) -> str:
        return "In response_format.json_schema, "


class AnyText(Body):
    type: Literal["text"]

    @property
    def grammar(self) -> Grammar | None:
        """What the answer must match."""
        return None


class AnyJson(Body):
    type: Literal["json_object"]

    @property
    def grammar(self) -> Grammar | None:
        """What the answer must match."""
        return Grammar("json", '{"type": "object"}', "any JSON object")


class JsonBySchema(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def grammar(self) -> Grammar | None:
        """What the answer must match."""
        name = f"the schema {self.json_schema.name!r}"
        return Grammar("json", json.dumps(self.json_schema.schema_), name)


ResponseFormat = Annotated[AnyText | AnyJson | JsonBySchema, Field(discriminator="type")]


class StructuredOutputs(Body):
    """One of: a JSON schema, a regular expression for the whole answer, texts to choose from."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[Choice] | None, Field(min_length=1)] = None

    @classmethod
    def where(cls) -> str:
        return "In structured_outputs, "

    @model_validator(mode="after")
    def check_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise Refusal(
                "structured_outputs", "structured_outputs takes one of json, regex and choice."
            )
        return self

    @property
    def grammar(self) -> Grammar:
        """What the answer must match."""
        if self.regex is not None:
            return Grammar("regex", self.regex, "the regex")
        if self.choice is not None:
            return Grammar("regex", "|".join(map(literal, self.choice)), "the choice")
        schema = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
        return Grammar("json", schema, "the JSON schema")


def literal(text: str) -> str:
    """The regex that matches `text` alone."""
    return "".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)
