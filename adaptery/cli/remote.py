"""`adapters publish` and `pull`."""

from typing import TYPE_CHECKING

import click

from adaptery.cli.context import (
    json_option,
    open_registry,
    plugins,
    print_json,
    reason_option,
    registry_option,
    stderr,
    stdout,
    version_data,
)
from adaptery.cli.params import ref_argument
from adaptery.errors import UsageError
from adaptery.types import LIVE, AdapterRef, RemoteRef, Version

if TYPE_CHECKING:
    from adaptery.registry.base import Registry

name_option = click.option("--name", help="What to call it there, instead of its own name.")


@click.command("publish")
@ref_argument
@click.argument("remote")
@click.option("--private", is_flag=True, help="Only the owners may see it there.")
@click.option("--alias", metavar="ALIAS", help="Then let this alias mean the version there.")
@reason_option
@registry_option
@json_option
def publish_command(
    ref: str,
    remote: str,
    private: bool,
    alias: str | None,
    reason: str,
    registry: str,
    as_json: bool,
) -> None:
    """Copy a version to a remote registry such as hf://ORG.

    REMOTE is hf://ORG/NAME. The version keeps its number and digest; publishing it again changes
    nothing.
    """
    target = remote_adapter(remote, "the version keeps its own number")
    with stderr().status(f"Publishing {ref} to {remote} …"):
        version = open_registry(registry).publish_to(
            open_remote(target.registry, private=private),
            AdapterRef.parse(ref),
            target.ref.name,
            alias=alias,
            reason=reason,
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
    source = RemoteRef.parse(remote)
    with stderr().status(f"Pulling {remote} …"):
        version = open_registry(registry).pull(open_registry(source.registry), source.ref, name)
    show(version, str(version), as_json)


def remote_adapter(remote: str, why: str) -> RemoteRef:
    """The adapter that `remote` names.

    Raises:
        UsageError: it names a version or an alias too, which it cannot, because `why`.
    """
    target = RemoteRef.parse(remote)
    if target.ref != AdapterRef(target.ref.name, alias=LIVE):
        raise UsageError(f"{remote!r}: {why}, so name only hf://ORG/NAME.")
    return target


def open_remote(url: str, *, private: bool) -> "Registry":
    """The registry of a remote reference; with `private`, what is made there is."""
    if not private:
        return open_registry(url)
    from adaptery.registry.hub.registry import HubRegistry

    return HubRegistry.open(url, plugins(), private=True)


def show(version: Version, where: str, as_json: bool) -> None:
    if as_json:
        print_json(version_data(version))
    else:
        stdout().print(f"{where} is sha256:{version.digest}.", soft_wrap=True)
