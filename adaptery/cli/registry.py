"""`adapters registry`: what concerns a registry as a whole."""

from dataclasses import asdict

import click

from adaptery.cli.context import (
    human_size,
    json_option,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stdout,
)


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
