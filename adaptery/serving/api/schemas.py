"""What requests may say."""

from functools import cached_property
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from adaptery.errors import UsageError
from adaptery.serving.api.body import Body, Refusal
from adaptery.serving.api.forms import AnyText, ResponseFormat, StructuredOutputs
from adaptery.serving.engine import SamplingParams
from adaptery.serving.grammar import Grammar, check_grammar


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
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Token = Annotated[int, Field(ge=0)]


class Generation(Body):
    """What chat and plain completions have in common: OpenAI's parameters, and vLLM's beside."""

    model: str
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    logit_bias: Annotated[dict[Token, Bias], Field(default_factory=dict)]
    n: Annotated[int, Field(ge=1, le=32)] = 1
    seed: int | None = None
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=16)] = ()
    stop_token_ids: tuple[Token, ...] = ()
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0)] = 0
    response_format: ResponseFormat = AnyText(type="text")
    structured_outputs: StructuredOutputs | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @cached_property
    def form(self) -> tuple[str, Grammar] | None:
        """What the answer must match, and the parameter that says so."""
        if self.structured_outputs is not None:
            return "structured_outputs", self.structured_outputs.grammar
        grammar = self.response_format.grammar
        return ("response_format", grammar) if grammar else None

    def check_form(self) -> None:
        """Do nothing if the answer can be held to the form asked for. May take a second.

        Raises:
            UsageError: it cannot.
        """
        if self.form is not None:
            param, grammar = self.form
            try:
                check_grammar(grammar)
            except UsageError as error:
                raise Refusal(param, f"{param}: {error}") from error

    def sampling(self, choice: int, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """How the engine chooses tokens for the choice of that number.

        With a seed every choice has one of its own, so that they differ and can be repeated.
        """
        return SamplingParams(
            max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=None if self.seed is None else self.seed + choice,
            stop=self.stops,
            logprobs=logprobs,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=tuple(self.logit_bias.items()),
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            min_tokens=self.min_tokens,
            grammar=self.form[1] if self.form else None,
        )

    @model_validator(mode="after")
    def check_ends(self) -> Self:
        if self.form is not None:
            form, _ = self.form
            for param in ("ignore_eos", "min_tokens"):
                if getattr(self, param):
                    raise Refusal(param, f"{param} does not go with {form}, which sets the end.")
            if self.structured_outputs is not None and self.response_format.grammar is not None:
                raise Refusal(form, f"{form} does not go with response_format: give one of them.")
        return self

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
