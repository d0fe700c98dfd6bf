"""`adapters promote` and `rollback`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click

from adaptery.cli.context import (
    json_option,
    open_registry,
    print_json,
    reason_option,
    registry_option,
    stdout,
)
from adaptery.cli.params import complete_aliases, name_argument, ref_argument
from adaptery.types import LIVE, AdapterRef, Event, check_alias, check_name

F = TypeVar("F", bound=Callable[..., Any])


def alias_option(*names: str) -> Callable[[F], F]:
    """The option for which alias to move."""
    return click.option(
        *names,
        "alias",
        default=LIVE,
        show_default=True,
        shell_complete=complete_aliases,
        help="Which alias to move.",
    )


@click.command("promote")
@ref_argument
@alias_option("--to", "--alias")
@click.option("--expect", type=int, metavar="N", help="Only if the alias points to version N now.")
@reason_option
@registry_option
@json_option
def promote_command(
    ref: str, alias: str, expect: int | None, reason: str, registry: str, as_json: bool
) -> None:
    """Let an alias mean a version; a bare name means `live`.

    Servers answer the next request accordingly, without a restart.
    """
    store = open_registry(registry)
    event = store.promote(AdapterRef.parse(ref), check_alias(alias), expect=expect, reason=reason)
    show(event, as_json)


@click.command("rollback")
@name_argument
@alias_option("--alias")
@click.option(
    "--to", type=int, metavar="N", help="The version to go back to, instead of the previous one."
)
@reason_option
@registry_option
@json_option
def rollback_command(
    name: str, alias: str, to: int | None, reason: str, registry: str, as_json: bool
) -> None:
    """Let an alias mean again what it meant before.

    Repeated rollbacks walk further back. Nothing is deleted; the history keeps both moves.
    """
    store = open_registry(registry)
    event = store.rollback(check_name(name), check_alias(alias), to=to, reason=reason)
    show(event, as_json)


def show(event: Event, as_json: bool) -> None:
    if as_json:
        print_json(asdict(event))
    else:
        before = f" (before: {event.previous})" if event.previous else ""
        stdout().print(
            f"{event.adapter}@{event.alias} now means {event.adapter}@{event.number}{before}."
        )
