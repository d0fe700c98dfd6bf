"""What this machine keeps of what it has downloaded."""

import time
from contextlib import suppress

from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.reports import Leftovers


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
