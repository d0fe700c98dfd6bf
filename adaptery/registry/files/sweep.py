"""Collection in a directory of files: what died processes left, and checkouts out of use."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from adaptery.registry.files.leases import Leases
from adaptery.registry.reports import Leftovers

# However short the grace, what was touched within the last hour may be a publish under way.
_UNFINISHED_S = 3600.0


def sweep(root: Path, leases: Leases, grace: float, *, dry_run: bool) -> Leftovers:
    """Take away what nobody has used for `grace` seconds, beside the blobs themselves.

    With `dry_run`, only say what would go.
    """
    return sweep_unfinished(root / "tmp", max(grace, _UNFINISHED_S), dry_run) + sweep_checkouts(
        root, leases, grace, dry_run
    )


def sweep_unfinished(staging: Path, grace: float, dry_run: bool) -> Leftovers:
    """What processes that died left in `staging`."""
    swept = Leftovers()
    for entry in _entries(staging):
        if _newest(entry) > time.time() - grace:
            continue
        swept += Leftovers(unfinished=1, bytes=sum(_sizes(entry)))
        if not dry_run:
            remove(entry)
    return swept


def sweep_checkouts(root: Path, leases: Leases, grace: float, dry_run: bool) -> Leftovers:
    """Checkouts that nobody holds. They are hard links, so only their names are freed."""
    swept = Leftovers()
    for checkout in _entries(root / "checkouts"):
        if _newest(checkout, deep=False) > time.time() - grace:
            continue
        with leases.collecting(checkout.name) as free:
            if not checkout.is_dir():
                continue  # Another collector was quicker.
            swept += Leftovers(checkouts=1) if free else Leftovers(leased=1)
            if free and not dry_run:
                _vanish(checkout, root / "tmp")
    if not dry_run:
        leases.forget()
    return swept


def remove(path: Path) -> None:
    """Remove a file or a directory with all that is in it; gone already is as well."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):  # somebody else removes it too
        shutil.rmtree(path)


def _vanish(checkout: Path, staging: Path) -> None:
    """Remove a directory in one step, as its users see it."""
    staging.mkdir(exist_ok=True)
    doomed = staging / f"swept-{checkout.name}-{os.getpid()}-{time.monotonic_ns()}"
    os.rename(checkout, doomed)
    remove(doomed)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _newest(path: Path, *, deep: bool = True) -> float:
    """When the path, or anything in it, was last written; now if it is gone meanwhile."""
    try:
        inside = path.rglob("*") if deep and path.is_dir() else ()
        times: list[float] = [entry.lstat().st_mtime for entry in (path, *inside)]
        return max(times)
    except FileNotFoundError:
        return time.time()


def _sizes(path: Path) -> Iterator[int]:
    """The bytes that removing the path frees: of each file that has no other name."""
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        status = file.lstat()
        if not file.is_dir() and status.st_nlink == 1:
            yield status.st_size
