"""Rows as the model will see them, as `adapters data preview` prints them."""

from itertools import groupby
from typing import TYPE_CHECKING, Any

from adaptery.cli.context import stdout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptery.trainers.encoding import Example

OPEN, CLOSE = "⟦", "⟧"  # around learned text where there is no colour


def as_data(example: "Example", tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """An example for scripts."""
    return {
        "origin": example.origin,
        "text": tokenizer.decode(example.ids),
        "ids": example.ids,
        "tokens": tokenizer.convert_ids_to_tokens(example.ids),
        "labels": example.labels,
        "learned": example.learned,
        "class": example.label,
    }


def show_example(
    example: "Example", label: str | None, tokenizer: "PreTrainedTokenizerBase", *, mask: bool
) -> None:
    """An example, and its class if it has one, for people."""
    from rich.text import Text

    console = stdout()
    told = f", class {label!r}" if label is not None else ""
    console.print(
        f"── {example.origin}: {len(example.ids)} tokens, {example.learned} learned{told}",
        style="dim",
        soft_wrap=True,
    )
    plain = console.no_color or console.color_system is None
    text = Text()
    for piece, learned in pieces(example, tokenizer):
        if mask and learned and plain:
            piece = f"{OPEN}{piece}{CLOSE}"
        text.append(piece, style="bold green" if mask and learned else "")
    console.print(text, soft_wrap=True)


def pieces(example: "Example", tokenizer: "PreTrainedTokenizerBase") -> list[tuple[str, bool]]:
    """The text of an example in runs, and whether each is learned.

    Cut out of the whole text, as some tokenizers drop the space before what is decoded alone.
    """
    from adaptery.trainers.encoding import IGNORED

    found, end, shown = [], 0, ""
    for learned, run in groupby(example.labels, lambda label: label != IGNORED):
        end += len(list(run))
        text = visible(tokenizer.decode(example.ids[:end]))
        found.append((text[len(shown) :], learned))
        shown = text
    return found


def visible(text: str) -> str:
    """A text with characters that terminals obey made visible; line ends stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
