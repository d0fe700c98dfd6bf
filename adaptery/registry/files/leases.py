"""Who is using which checkout: what collection must leave alone.

::

    leases/<manifest digest>/<holder>      a lease; it ends at the file's modification time
    leases/<manifest digest>/.collecting   somebody is about to take the checkout away

A holder writes its lease and then looks for a collector; a collector announces itself and then
looks for leases. Whatever the order, one of the two sees the other (Dekker's algorithm), so no
file lock is needed. Who dies is forgotten by expiry.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_COLLECTING = ".collecting"
_PATIENCE_S = 30.0  # a collector that takes longer for one checkout has died
_POLL_S = 0.005
_LONG_S = 3600.0


class Leases:
    """The leases in one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def take(self, digest: str, holder: str, seconds: float) -> None:
        """Hold the checkout of `digest` for so long from now; again to renew it.

        When this returns, no collector is at work on it, and none begins before the lease ends.
        """
        ends = time.time() + seconds
        while not self._write(self._path(digest, holder), holder, ends):
            pass  # Somebody found the directory empty and swept it away.
        while self._is_collecting(digest):
            time.sleep(_POLL_S)

    def drop(self, digest: str, holder: str) -> None:
        """Give a lease back, if there is one."""
        self._path(digest, holder).unlink(missing_ok=True)

    def holders(self, digest: str) -> list[str]:
        """Who holds the checkout now."""
        now, found = time.time(), []
        for path in self._files(digest):
            with suppress(FileNotFoundError):  # given back meanwhile
                if path.stat().st_mtime > now:
                    found.append(path.read_text())
        return sorted(found)

    def forget(self) -> None:
        """Sweep away what ended so long ago that nobody can be about to renew it."""
        long_ago = time.time() - _LONG_S
        for directory in self._root.iterdir() if self._root.is_dir() else ():
            with suppress(OSError):  # not empty, or gone meanwhile
                for path in directory.iterdir():
                    if path.stat().st_mtime < long_ago:
                        path.unlink()
                directory.rmdir()

    @contextmanager
    def collecting(self, digest: str) -> Iterator[bool]:
        """Whether the checkout may be taken away meanwhile: nobody holds it, nobody else collects.

        Inside, holders wait.
        """
        announcement = self._root / digest / _COLLECTING
        try:
            announcement.parent.mkdir(parents=True, exist_ok=True)
            self._is_collecting(digest)  # forgets one that died
            announcement.touch(exist_ok=False)
        except (FileExistsError, FileNotFoundError):
            yield False  # Somebody else is at it.
            return
        try:
            yield not self.holders(digest)
        finally:
            announcement.unlink(missing_ok=True)

    def _write(self, path: Path, holder: str, ends: float) -> bool:
        """Write a lease down in one step. False if its directory went away meanwhile."""
        unfinished = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(holder)
            os.utime(unfinished, (ends, ends))
            os.replace(unfinished, path)
        except (FileNotFoundError, FileExistsError):  # mkdir says the latter if it goes meanwhile
            return False
        return True

    def _files(self, digest: str) -> list[Path]:
        directory = self._root / digest
        if not directory.is_dir():
            return []
        return [path for path in directory.iterdir() if not path.name.startswith(".")]

    def _is_collecting(self, digest: str) -> bool:
        announcement = self._root / digest / _COLLECTING
        try:
            age = time.time() - announcement.stat().st_mtime
        except FileNotFoundError:
            return False
        if age > _PATIENCE_S:
            announcement.unlink(missing_ok=True)
            return False
        return True

    def _path(self, digest: str, holder: str) -> Path:
        # A holder may be any text, so its digest names the file.
        return self._root / digest / hashlib.sha256(holder.encode()).hexdigest()[:32]
