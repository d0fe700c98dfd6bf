"""`adapters methods` and `adapters plugins`."""

import click

from adaptery.cli.context import json_option, plugins, print_json, print_table
from adaptery.plugins.manager import KINDS


@click.command("methods")
@json_option
def methods_command(as_json: bool) -> None:
    """List the training methods."""
    found = plugins().registered("training_methods").values()
    if as_json:
        print_json(
            [{"name": m.spec.name, "summary": m.spec.summary, "plugin": m.owner} for m in found]
        )
    else:
        print_table(
            ("method", "what it is", "from"),
            [(m.spec.name, m.spec.summary, m.owner) for m in found],
        )


@click.command("plugins")
@json_option
def plugins_command(as_json: bool) -> None:
    """List the plugins and what they register."""
    manager = plugins()
    things = [
        {"kind": kind, "name": item.spec.name, "summary": item.spec.summary, "plugin": item.owner}
        for hook, kind in KINDS.items()
        for item in manager.registered(hook).values()
    ]
    if as_json:
        modules = [
            {"plugin": o, "module": name, "hooks": hooks} for o, name, hooks in manager.plugins()
        ]
        print_json({"registered": things, "plugins": modules})
    else:
        print_table(
            ("kind", "name", "what it is", "from"), [tuple(thing.values()) for thing in things]
        )
