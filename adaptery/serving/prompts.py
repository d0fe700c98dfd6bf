"""Messages and text → tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptery.base_model import LocalBase
from adaptery.errors import UsageError

TEMPLATE = "chat_template.jinja"


def chat_template(directory: Path | None) -> str | None:
    """The template of the version in `directory`; None means the base tokenizer's own.

    A version is asked in the form in which it was trained, whatever form the base has.
    """
    path = directory / TEMPLATE if directory else None
    return path.read_text(encoding="utf-8") if path and path.exists() else None


def render_chat(
    base: LocalBase,
    messages: Sequence[Mapping[str, Any]],
    template: str | None,
    *,
    ask: bool = True,
) -> tuple[int, ...]:
    """Tokens of a conversation; with `ask`, one that the model is to continue as the assistant.

    transformers renders templates in a sandbox: they come with an adapter and may be anyone's.

    Raises:
        UsageError: there is no template, or it cannot render these messages.
    """
    try:
        text: Any = base.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            add_generation_prompt=ask,
            tokenize=False,
        )
    except Exception as error:  # whatever a template may raise is the request's fault or its own
        raise UsageError(f"The chat template cannot render these messages: {error}") from error
    return encode(base, text, special=False)


def encode(base: LocalBase, text: str, special: bool) -> tuple[int, ...]:
    """Tokens of a text; with `special` also those that the tokenizer puts around plain text."""
    return tuple(base.tokenizer(text, add_special_tokens=special)["input_ids"])


def token_text(base: LocalBase, token: int) -> str:
    """The text of a single token, special ones by their name."""
    text: Any = base.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return str(text)
