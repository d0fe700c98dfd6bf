"""Versions from one registry to another: what `adapters publish` and `adapters pull` do.

A version is published under its own number; what is said of it elsewhere stays there. Whole
histories: `histories.py`.
"""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from adaptery.errors import Conflict
from adaptery.registry.base import Registry
from adaptery.types import (
    AdapterPackage,
    AdapterRef,
    Version,
    check_alias,
)

# How long collection spares what somebody who died was reading; far longer than any upload takes.
_LEASE_S = 6 * 3600.0


@contextmanager
def checked_out(registry: Registry, version: Version) -> Iterator[AdapterPackage]:
    """The version's files, every digest checked, and kept from collection meanwhile."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    registry.lease(version, holder, _LEASE_S)
    try:
        yield AdapterPackage(registry.materialize(version), version.manifest)
    finally:
        registry.release(version, holder)


def copy_version(
    source: Registry,
    ref: AdapterRef,
    target: Registry,
    name: str | None = None,
    *,
    reason: str = "",
) -> Version:
    """Publish in `target` what `ref` means in `source`, unchanged and under the same number.

    Args:
        name: what to call it in `target`; what it is called in `source` if None.
        reason: why; kept in the history of `target`.

    Raises:
        ReferenceNotFound: `ref` means nothing in `source`.
        CorruptFile: a file is not what its manifest says.
        Conflict: `target` holds something else under this name and number.
    """
    version = source.resolve(ref)
    told = f"copied from {_public_name(source, version)}" + (f": {reason}" if reason else "")
    try:
        with checked_out(source, version) as package:
            return target.publish(name or version.name, package, number=version.number, reason=told)
    except Conflict as error:
        raise Conflict(
            f"{target.url} does not take {version} of {source.url}: {error} "
            "Use --name, or another NAME in hf://ORG/NAME, to keep it there under another name."
        ) from error


def publish_version(
    source: Registry,
    ref: AdapterRef,
    target: Registry,
    name: str | None = None,
    *,
    alias: str | None = None,
    reason: str = "",
) -> Version:
    """`copy_version`, and then let `alias` mean the version in `target`, for this `reason`.

    Raises:
        InvalidName: `alias` breaks the grammar.
        PromotionRefused: a hook objects to the alias; the version is published all the same.
        (and as `copy_version`)
    """
    if alias is not None:
        check_alias(alias)
    copied = copy_version(source, ref, target, name, reason=reason)
    if alias is not None and alias_numbers(target, copied.name).get(alias) != copied.number:
        target.promote(AdapterRef(copied.name, number=copied.number), alias, reason=reason)
    return copied


def alias_numbers(registry: Registry, name: str) -> dict[str, int]:
    """Where the aliases of an adapter point."""
    return {alias.name: alias.number for alias in registry.aliases(name)}


def _public_name(source: Registry, version: Version) -> str:
    """What a history that others read may say of the source: no path, host or password of ours."""
    return f"{source.url}/{version}" if source.url.startswith("hf://") else str(version)
