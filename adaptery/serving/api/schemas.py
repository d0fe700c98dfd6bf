"""What requests may say.

A parameter that would change the answer is either obeyed or refused with a sentence, never
dropped. Those that change nothing here are accepted.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adaptery.errors import UsageError
from adaptery.serving.engine import SamplingParams

# Parameters without influence on the answer.
HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Parameters that are not obeyed, with the value at which they ask for nothing.
NEUTRAL: dict[str, Any] = {
    "annotations": [],
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "suffix": "",
    "tool_calls": [],
    "tool_choice": "none",
    "tools": [],
}


class Refusal(ValueError):
    """A parameter that cannot be obeyed."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Body(BaseModel):
    """Part of a request: null means not given, and nothing unknown is passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def only_what_is_obeyed(cls, values: Any) -> Any:
        """Leave out what says nothing; refuse what would have to be ignored."""
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        for key in sorted(given.keys() - cls.model_fields.keys() - HARMLESS):
            if key not in NEUTRAL or given[key] != NEUTRAL[key]:
                raise Refusal(key, f"{cls.where()}{key}={given[key]!r} is not supported here.")
        return {key: value for key, value in given.items() if key in cls.model_fields}

    @classmethod
    def where(cls) -> str:
        """How messages introduce a parameter."""
        return "The parameter "


class StreamOptions(Body):
    include_usage: bool = False


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation; the chat template decides what becomes of it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    name: str | None = None

    @classmethod
    def where(cls) -> str:
        return "In a message, "

    def plain(self) -> dict[str, str]:
        """The message as templates take it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        named = {"name": self.name} if self.name is not None else {}
        return {"role": self.role, "content": text, **named}


T = TypeVar("T")
Some = Annotated[list[T], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1)]
MOST_INPUTS = 1024  # of one request


class Generation(Body):
    """What chat and plain completions have in common."""

    model: str
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=32)] = 1
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def sampling(self, choice: int, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """How the engine chooses tokens for the choice of that number.

        With a seed every choice has one of its own, so that they differ and can be repeated.
        """
        seed = None if self.seed is None else self.seed + choice
        return SamplingParams(max_tokens, self.temperature, self.top_p, seed, self.stops, logprobs)

    @model_validator(mode="after")
    def check_stream_options(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise Refusal("stream_options", "stream_options only goes with stream=true.")
        return self


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    messages: Some[Message]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @property
    def top(self) -> int | None:
        """How many alternatives to each token are asked for; None if no scores are."""
        return self.top_logprobs if self.logprobs else None

    @model_validator(mode="after")
    def check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise Refusal("top_logprobs", "top_logprobs only goes with logprobs=true.")
        return self


class ClassifyRequest(Body):
    """`POST /v1/classify`."""

    model: str
    input: str | list[str | list[str]]

    @field_validator("input")
    @classmethod
    def check_input(cls, given: str | list[str | list[str]]) -> str | list[str | list[str]]:
        inputs = given if isinstance(given, list) else [given]
        texts = [
            text for one in inputs for text in ([one] if isinstance(one, str) else one or [""])
        ]
        if not texts or not all(texts):
            raise Refusal("input", "input is empty, or a text in it is: there is nothing to judge.")
        if len(inputs) > MOST_INPUTS:
            raise Refusal("input", f"input has {len(inputs):,} texts; at most {MOST_INPUTS:,}.")
        return given

    def texts(self, each: int) -> list[tuple[str, ...]]:
        """The inputs, each of one text or of two.

        Raises:
            UsageError: one has another number of texts than the version was trained on.
        """
        given = self.input if isinstance(self.input, list) else [self.input]
        found = [(text,) if isinstance(text, str) else tuple(text) for text in given]
        if each == 2 and [len(texts) for texts in found] == [1, 1]:
            found = [(*found[0], *found[1])]  # two texts, which are one pair
        for number, texts in enumerate(found):
            if len(texts) != each:
                raise UsageError(
                    f"input {number} has {len(texts)} text(s), and this version tells the class of "
                    f"{'two texts together' if each == 2 else 'one text'}. Send "
                    + ('["one", "two"] or a list of such pairs.' if each == 2 else "texts.")
                )
        return found


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    prompt: str | Some[int] | Some[str] | Some[list[int]]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
