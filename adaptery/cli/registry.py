"""`adapters registry`: what concerns a registry as a whole."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from adaptery.cli.carry import resumable
from adaptery.cli.context import (
    human_size,
    json_option,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stderr,
    stdout,
)
from adaptery.cli.progress import Bars
from adaptery.errors import UsageError
from adaptery.types import Event

if TYPE_CHECKING:
    from adaptery.registry.carry.histories import Progress


@click.group("registry")
def registry_command() -> None:
    """Make, describe, migrate or copy a whole registry."""


@registry_command.command("init")
@registry_option
@json_option
def init_command(registry: str, as_json: bool) -> None:
    """Make the registry now, instead of on first publish."""
    store = open_registry(registry)
    made = store.init()
    if as_json:
        print_json({"url": store.url, "made": made})
    elif made:
        stdout().print(f"Made the registry {store.url}.")
    else:
        stdout().print(f"The registry {store.url} is there already; nothing was changed.")


@registry_command.command("info")
@registry_option
@json_option
def info_command(registry: str, as_json: bool) -> None:
    """Say what the registry is and what it holds."""
    info = asdict(open_registry(registry).info())
    if as_json:
        print_json(info)
        return
    info["bytes"] = human_size(info["bytes"])
    print_table(["what", "value"], info.items())


@registry_command.command("migrate")
@registry_option
@json_option
def migrate_command(registry: str, as_json: bool) -> None:
    """Bring a registry of an older adaptery up to date, after a backup."""
    store = open_registry(registry)
    backup = store.migrate()
    if as_json:
        print_json({"url": store.url, "migrated": backup is not None, "backup": backup})
    elif backup:
        stdout().print(f"Migrated {store.url}. What it was before is kept in {backup}.")
    else:
        stdout().print(f"{store.url} is up to date; nothing was changed.")


@registry_command.command("copy")
@click.argument("source")
@click.argument("target")
@json_option
def copy_command(source: str, target: str, as_json: bool) -> None:
    """Copy every adapter from one registry to another, with its whole history.

    SOURCE and TARGET are URLs of registries of any kind. Versions, aliases and events are the same
    in both afterwards. Copy again to continue after an interruption, or to bring TARGET up to date.
    """
    original, copy = open_registry(source), open_registry(target)
    with resumable(), Bars(stderr()) as bars:
        copied = original.copy_to(copy, on_progress(bars))
    if not copied.adapters:
        raise UsageError(f"{original.url} holds no adapter, so there is nothing to copy.")
    if as_json:
        print_json(asdict(copied))
        return
    stdout().print(
        f"{copied.adapters} adapters are the same in {original.url} and {copy.url}: "
        f"{copied.versions} versions and {copied.events} events were copied, {copied.present} "
        "events were there."
    )


def on_progress(bars: Bars) -> "Progress":
    """Draws how many events are done."""
    shown = 0

    def show(done: int, total: int, _event: Event) -> None:
        nonlocal shown
        if not shown:
            bars.phase("Copying events", total)
        bars.advance(done - shown)
        shown = done

    return show
