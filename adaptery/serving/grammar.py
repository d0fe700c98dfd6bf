"""What an answer must match, whatever the model would rather say: a JSON schema or a regex.

llguidance, the extra `structured`, knows both. This side is for whoever accepts a request: is it a
grammar that can be obeyed? The engine's side is `adaptery.serving.torch.constraints`.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from adaptery.errors import UsageError

if TYPE_CHECKING:
    from llguidance import LLParserLimits
    from llguidance._lib import JsonCompileOptions

# What a schema must not switch by itself (llguidance lets it under the key "x-guidance").
# Whitespace only where people put it and only so much of it: a model can go on with it for ever.
JSON_OPTIONS: "JsonCompileOptions" = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": r"\n? {0,16}",
    "coerce_one_of": False,  # "one of" must not become "any of"
    "lenient": False,  # what is not known to be obeyed is refused
}
REMEMBERED = 256  # verdicts


@dataclass(frozen=True, slots=True)
class Grammar:
    """A JSON schema (as JSON) or a regular expression (in Rust's dialect, of the whole answer).

    `name` is what messages call it.
    """

    kind: Literal["json", "regex"]
    text: str
    name: str = field(default="the form asked for", compare=False)


def check_grammar(grammar: Grammar) -> None:
    """Do nothing if answers can be held to `grammar`. Takes up to a second for a large one.

    Raises:
        UsageError: it is invalid, or says what cannot be obeyed, or llguidance is not installed.
    """
    require_llguidance()
    if reason := complaint(grammar):
        raise UsageError(f"{grammar.name} cannot be obeyed: {reason}")


def require_llguidance() -> None:
    """Do nothing if llguidance is installed. Raises `UsageError`."""
    try:
        import llguidance  # noqa: F401 whether it is there
    except ImportError as error:
        raise UsageError(
            "Answers in a given form need the package llguidance where the server runs: "
            "pip install 'adaptery[structured]'."
        ) from error


@lru_cache(maxsize=REMEMBERED)
def complaint(grammar: Grammar) -> str:
    """What is wrong with a grammar; nothing if it can be obeyed."""
    from llguidance import LLMatcher

    try:
        return str(LLMatcher.validate_grammar(source(grammar), limits=limits()))
    except ValueError as error:  # JSON that llguidance cannot read, such as a very deep one
        return str(error)


def source(grammar: Grammar) -> str:
    """`grammar` as llguidance takes it."""
    from llguidance import LLMatcher

    if grammar.kind == "regex":
        return str(LLMatcher.grammar_from_regex(grammar.text))
    return str(LLMatcher.grammar_from_json_schema(grammar.text, overrides=JSON_OPTIONS))


def limits() -> "LLParserLimits":
    """How much work a grammar may be. Errors go to clients, so they show no parser's insides."""
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False)
