"""Keeps collection away from the files of a version for as long as the engine may touch them."""

import asyncio
import logging
import os
import socket

from adaptery.errors import AdapteryError
from adaptery.types import Version, VersionSource

log = logging.getLogger(__name__)

LEASE_S = 600.0  # how long a server that died keeps what it had loaded


def holder(version: Version) -> str:
    """Who holds it, for others to read. Versions of two names may share their files."""
    return f"server {os.getpid()} on {socket.gethostname()} for {version}"


async def lease(source: VersionSource, version: Version) -> "asyncio.Task[None]":
    """Take a lease and renew it until the task that this returns is cancelled.

    Raises:
        AdapteryError: the registry could not be reached.
    """
    await asyncio.to_thread(source.lease, version, holder(version), LEASE_S)
    return asyncio.create_task(_keep(source, version))


async def _keep(source: VersionSource, version: Version) -> None:
    try:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await asyncio.to_thread(source.lease, version, holder(version), LEASE_S)
            except AdapteryError as error:
                log.warning("The lease of %s could not be renewed: %s", version, error)
    finally:
        source.release(version, holder(version))
