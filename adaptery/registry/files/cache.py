"""Where this machine keeps what it has downloaded."""

import os
import time
from contextlib import suppress
from pathlib import Path

from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.reports import Leftovers


def cache_directory() -> Path:
    """Where downloads are kept: $ADAPTERS_CACHE, else `adaptery` in the user's cache directory."""
    chosen = os.environ.get("ADAPTERS_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{caches}/adaptery").expanduser()


def sweep_cache(cache: BlobStore, grace: float, *, dry_run: bool) -> Leftovers:
    """Take away what nobody has used for `grace` s: it is fetched again when it is needed.

    A blob stays as long as a checkout shows it.
    """
    swept = cache.sweep(grace, dry_run=dry_run)
    for blob in cache.stored():
        unused = blob.modified <= time.time() - grace
        with suppress(FileNotFoundError):  # another collector was quicker
            if unused and cache.path(blob.digest).stat().st_nlink == 1:
                swept += Leftovers(blobs=1, bytes=blob.size)
                if not dry_run:
                    cache.remove(blob.digest)
    return swept
