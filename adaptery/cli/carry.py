"""`adapters bundle`, `unbundle`, `sync` and `sign`: versions, histories and signatures carried."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

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
from adaptery.cli.params import ref_argument
from adaptery.cli.remote import name_option, remote_adapter
from adaptery.errors import Interrupted, UsageError
from adaptery.types import AdapterRef

if TYPE_CHECKING:
    from adaptery.registry.carry.histories import Synced

file_type = click.Path(path_type=Path)


@click.command("bundle")
@ref_argument
@click.option(
    "-o", "--output", type=file_type, help="The file to write.  [default: NAME-NUMBER.tar, here]"
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@registry_option
@json_option
def bundle_command(
    ref: str, output: Path | None, force: bool, registry: str, as_json: bool
) -> None:
    """Write a version to one file, to be carried where no network reaches.

    The same version is always the same bytes. `adapters unbundle` reads it.
    """
    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    file = output or Path(f"{version.name}-{version.number}.tar")
    with stderr().status(f"Bundling {version} …"):
        store.bundle(AdapterRef(version.name, number=version.number), file, force=force)
    if as_json:
        print_json({**version_data(version), "file": file, "bytes": file.stat().st_size})
    else:
        stdout().print(f"{file} holds {version}, sha256:{version.digest}.", soft_wrap=True)


@click.command("unbundle")
@click.argument("file", type=file_type)
@name_option
@registry_option
@json_option
def unbundle_command(file: Path, name: str | None, registry: str, as_json: bool) -> None:
    """Publish the version in a file that `adapters bundle` wrote.

    It keeps its number and digest. Nothing but a version in that one form is accepted.
    """
    with stderr().status(f"Unbundling {file} …"):
        version = open_registry(registry).unbundle(file, name)
    if as_json:
        print_json(version_data(version))
    else:
        stdout().print(f"{version} is sha256:{version.digest}.", soft_wrap=True)


@click.command("sync")
@click.argument("remote")
@registry_option
@json_option
def sync_command(remote: str, registry: str, as_json: bool) -> None:
    """Give this registry and a remote one the versions that only the other has.

    REMOTE is hf://ORG/NAME. If one history continues the other, both are the same afterwards. If
    they have diverged, versions are exchanged under their own numbers, and aliases stay.
    """
    target = remote_adapter(remote, "a whole adapter is synchronized")
    with resumable(), stderr().status(f"Synchronizing with {remote} …"):
        done = open_registry(registry).sync(open_registry(target.registry), target.ref.name)
    if as_json:
        print_json({**asdict(done), "remote": target.registry})
        return
    for sentence in _story(done, target.registry):
        stdout().print(sentence, soft_wrap=True)


@click.command("sign")
@ref_argument
@click.option(
    "--key", type=file_type, required=True, help="The private key: a PEM file, elliptic curve."
)
@click.option("--password-env", metavar="VAR", help="The variable that holds the key's password.")
@registry_option
@json_option
def sign_command(
    ref: str, key: Path, password_env: str | None, registry: str, as_json: bool
) -> None:
    """Sign a version's manifest and files; the signature goes into its history.

    `adapters verify --signature` checks it with the public key, here and wherever it was copied.
    """
    password = os.environ.get(password_env) if password_env is not None else None
    if password_env is not None and not password:
        raise UsageError(f"There is no password in the variable {password_env}.")
    store = open_registry(registry)
    with stderr().status(f"Signing {ref} …"):
        event = store.sign(AdapterRef.parse(ref), key, password)
    if as_json:
        print_json(asdict(event))
    else:
        stdout().print(f"{event.adapter}@{event.number} is signed with {key}.", soft_wrap=True)


@contextmanager
def resumable() -> Iterator[None]:
    """Say after a Ctrl-C what `main` cannot know: part of it has happened, and for good."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted. What was copied stays; repeat the command to go on."
        ) from None


def _story(done: "Synced", remote: str) -> list[str]:
    """What a synchronization did, for people."""
    told = []
    for numbers, verb in ((done.sent, f"Sent to {remote}"), (done.received, "Received")):
        if numbers:
            told.append(f"{verb}: {', '.join(f'{done.name}@{number}' for number in numbers)}.")
    if done.aliases is None:
        return [*told, f"The history of {done.name} is the same here and in {remote}."]
    told.append(f"The histories of {done.name} have diverged; both hold the same versions now.")
    for alias, (here, there) in done.aliases.items():
        told.append(f"{alias} means {here or 'nothing'} here and {there or 'nothing'} in {remote}.")
    for number in done.yanked:
        told.append(f"{done.name}@{number} is yanked on one side only.")
    return told
