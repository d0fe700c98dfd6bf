"""`adapters yank`, `unyank`, `tag` and `note`: what is said of a version after it was published."""

from dataclasses import asdict

import click

from adaptery.cli.context import (
    json_option,
    open_registry,
    print_json,
    reason_option,
    registry_option,
    stdout,
)
from adaptery.cli.params import ref_argument
from adaptery.errors import UsageError
from adaptery.types import AdapterRef, Event


@click.command("yank")
@ref_argument
@reason_option
@registry_option
@json_option
def yank_command(ref: str, reason: str, registry: str, as_json: bool) -> None:
    """Take a version out of use; it stays readable.

    No alias can mean it, `latest` passes it over, and its number and digest work as before. It
    needs a reason, and an alias that means it must be moved first.
    """
    event = open_registry(registry).yank(AdapterRef.parse(ref), reason)
    tell(event, f"is yanked: {event.reason}", as_json)


@click.command("unyank")
@ref_argument
@reason_option
@registry_option
@json_option
def unyank_command(ref: str, reason: str, registry: str, as_json: bool) -> None:
    """Take a yank back."""
    event = open_registry(registry).unyank(AdapterRef.parse(ref), reason)
    tell(event, "is no longer yanked.", as_json)


@click.command("tag")
@ref_argument
@click.argument("tags", nargs=-1, required=True, metavar="KEY=VALUE…")
@registry_option
@json_option
def tag_command(ref: str, tags: tuple[str, ...], registry: str, as_json: bool) -> None:
    """Give a version tags, or take them away.

    KEY= without a value takes a tag away. The history keeps what a tag was before.
    """
    event = open_registry(registry).tag(AdapterRef.parse(ref), read_tags(tags))
    tell(event, f"now has {tag_list(event)}.", as_json)


@click.command("note")
@ref_argument
@click.argument("text")
@registry_option
@json_option
def note_command(ref: str, text: str, registry: str, as_json: bool) -> None:
    """Keep a note about a version."""
    event = open_registry(registry).note(AdapterRef.parse(ref), text)
    tell(event, "has a new note.", as_json)


def read_tags(tags: tuple[str, ...]) -> dict[str, str]:
    """Tags as they are written on the command line.

    Raises:
        UsageError: one is not KEY=VALUE, or a key comes twice.
    """
    found: dict[str, str] = {}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not equals:
            raise UsageError(f"{tag!r} is not a tag: write key=value, or key= to take it away.")
        if key in found:
            raise UsageError(f"The tag {key!r} is given twice; a version has one value for it.")
        found[key] = value
    return found


def tag_list(event: Event) -> str:
    """What an event that tags says, in a line."""
    pairs = sorted(event.data.items())
    return ", ".join(f"{key}={value}" if value else f"no {key}" for key, value in pairs)


def tell(event: Event, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(asdict(event))
    else:
        stdout().print(f"{event.adapter}@{event.number} {sentence}", soft_wrap=True)
