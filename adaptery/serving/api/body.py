"""What every request's body has in common: nothing in it is passed over.

A parameter that would change the answer is either obeyed or refused with a sentence, never
dropped. Those that change nothing here are accepted.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from adaptery.errors import UsageError

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
    "modalities": ["text"],
    "suffix": "",
    "tool_calls": [],
    "tool_choice": "none",
    "tools": [],
}


class Refusal(UsageError):
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
        known = {field.alias or name for name, field in cls.model_fields.items()}
        given = {key: value for key, value in values.items() if value is not None}
        for key in sorted(given.keys() - known - HARMLESS):
            if key not in NEUTRAL or given[key] != NEUTRAL[key]:
                raise Refusal(key, f"{cls.where()}{key}={given[key]!r} is not supported here.")
        return {key: value for key, value in given.items() if key in known}

    @classmethod
    def where(cls) -> str:
        """How messages introduce a parameter."""
        return "The parameter "
