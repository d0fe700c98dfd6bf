"""`adapters publish` and `pull`."""

import click

from adaptery.cli.context import (
    json_option,
    open_registry,
    print_json,
    registry_option,
    stderr,
    stdout,
    version_data,
)
from adaptery.errors import UsageError
from adaptery.types import AdapterRef, RemoteRef, Version

name_option = click.option("--name", help="What to call it there, instead of its own name.")


@click.command("publish")
@click.argument("ref")
@click.argument("remote")
@registry_option
@json_option
def publish_command(ref: str, remote: str, registry: str, as_json: bool) -> None:
    """Copy a version to a remote registry such as hf://ORG.

    REMOTE is hf://ORG/NAME. The version keeps its number and digest; publishing it again changes
    nothing.
    """
    from adaptery.registry.transfer import copy_version

    target = RemoteRef.parse(remote)
    if target.ref != AdapterRef(target.ref.name, alias="live"):
        raise UsageError(
            f"{remote!r}: the version keeps its own number, so name only hf://ORG/NAME."
        )
    with stderr().status(f"Publishing {ref} to {remote} …"):
        version = copy_version(
            open_registry(registry),
            AdapterRef.parse(ref),
            open_registry(target.registry),
            target.ref.name,
        )
    show(version, f"{target.registry}/{version.name}@v{version.number}", as_json)


@click.command("pull")
@click.argument("remote")
@name_option
@registry_option
@json_option
def pull_command(remote: str, name: str | None, registry: str, as_json: bool) -> None:
    """Copy a version from a remote registry.

    REMOTE is hf://ORG/NAME@v3, or without @v3 what is live there. Every digest is checked.
    """
    from adaptery.registry.transfer import copy_version

    source = RemoteRef.parse(remote)
    with stderr().status(f"Pulling {remote} …"):
        version = copy_version(
            open_registry(source.registry), source.ref, open_registry(registry), name
        )
    show(version, str(version), as_json)


def show(version: Version, where: str, as_json: bool) -> None:
    if as_json:
        print_json(version_data(version))
    else:
        stdout().print(f"{where} is sha256:{version.digest}.", soft_wrap=True)
