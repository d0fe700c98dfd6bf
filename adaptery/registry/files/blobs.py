"""Bytes kept under their SHA-256, and directories of them that engines can read.

::

    blobs/sha256/ab/abcd…   mode 0444, written once
    checkouts/<digest>/     a version's files under their names, hard links to blobs
    quarantine/             blobs that lost their digest
    leases/                 who uses which checkout: `leases.py`
    tmp/                    what is not finished; nothing ever refers to it
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from adaptery.errors import CorruptFile, RegistryError
from adaptery.registry.files.base import Blobs, Stored
from adaptery.registry.files.digests import mismatch, sha256
from adaptery.registry.files.leases import Leases
from adaptery.registry.files.sweep import remove, sweep
from adaptery.registry.reports import Leftovers
from adaptery.types import FileEntry


class BlobStore(Blobs):
    """A directory of blobs. Nothing in it is ever changed in place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # (device, inode, mtime and ctime in ns, size) -> SHA-256: a file that has not been touched
        # since this process hashed it is not hashed again. Nobody can set ctime back.
        self._hashed: dict[tuple[int, int, int, int, int], str] = {}
        self._settled: set[Path] = set()
        self.leases = Leases(root / "leases")

    def path(self, digest: str) -> Path:
        """Where the blob with this SHA-256 lies, whether it is there or not."""
        return self._root / "blobs" / "sha256" / digest[:2] / digest

    def add(self, source: Path, digest: str, what: str | None = None) -> None:
        target = self.path(digest)
        with self.sentences():
            if not self.has(digest):
                self._write(source, target, what or str(source))
            # Also if it was there: whoever wrote it may have been killed before they came to this.
            self._settle(target)

    def has(self, digest: str) -> bool:
        """Whether the blob is there and intact."""
        try:
            return self._digest(self.path(digest)) == digest
        except FileNotFoundError:
            return False

    def exists(self, digest: str) -> bool:
        with self.sentences():
            return self.path(digest).exists()

    def fetch(self, digest: str, directory: Path) -> Path:
        if not self.exists(digest):
            raise CorruptFile(f"{self.path(digest)} is gone.")
        return self.path(digest)

    def rehash(self, digest: str) -> str | None:
        self._hashed.clear()
        with self.sentences():
            try:
                return sha256(self.path(digest))
            except FileNotFoundError:
                return None

    def stored(self) -> Iterator[Stored]:
        for path in sorted((self._root / "blobs" / "sha256").glob("??/*")):
            with suppress(FileNotFoundError):  # collected meanwhile
                status = path.stat()
                yield Stored(path.name, status.st_size, status.st_mtime)

    def remove(self, digest: str) -> None:
        with self.sentences():
            self.path(digest).unlink(missing_ok=True)

    def set_aside(self, digest: str) -> str:
        target = self._root / "quarantine" / digest
        with self.sentences():
            target.parent.mkdir(exist_ok=True)
            os.rename(self.path(digest), target)
            fsync(target.parent)
        return str(target)

    def undo_checkout(self, digest: str) -> None:
        """Remove the directory for the manifest `digest`, which shows a damaged blob."""
        with self.sentences():
            remove(self._root / "checkouts" / digest)

    def sweep(self, grace: float, *, dry_run: bool) -> Leftovers:
        """Take away what died processes left, and checkouts that nobody used or leased."""
        with self.sentences():
            return sweep(self._root, self.leases, grace, dry_run=dry_run)

    def checkout(self, digest: str, files: Sequence[FileEntry]) -> Path:
        """The directory for the manifest `digest`, which holds exactly `files`.

        Raises:
            CorruptFile: a blob is gone or no longer has its digest.
        """
        target = self._root / "checkouts" / digest
        with self.sentences():
            for file in files:
                self._verify(file)
            if not self._links(target, files):
                self._link(target, files)
            os.utime(target)  # collection spares what was used lately
        return target

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh directory on the same file system, gone afterwards."""
        parent = self._root / "tmp"
        with self.sentences():
            parent.mkdir(parents=True, exist_ok=True)
            directory = Path(tempfile.mkdtemp(dir=parent))
            try:
                yield directory
            finally:
                shutil.rmtree(directory)

    @contextmanager
    def sentences(self) -> Iterator[None]:
        """Turn what the file system refuses into a `RegistryError`."""
        try:
            yield
        except OSError as error:
            raise RegistryError(f"{self._root} cannot be used: {error}.") from error

    def _write(self, source: Path, target: Path, what: str) -> None:
        with self.staging() as staging:
            staged = staging / target.name
            found = _copy(source, staged)
            if found != target.name:
                raise CorruptFile(mismatch(what, target.name, found))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
            self._settled.discard(target)

    def _settle(self, path: Path) -> None:
        """Make the name of `path`, and those of the directories above it, survive a power cut."""
        if path in self._settled or path == self._root.parent:
            return
        fsync(path.parent)
        self._settle(path.parent)
        self._settled.add(path)

    def _verify(self, file: FileEntry) -> None:
        path = self.path(file.sha256)
        try:
            actual = self._digest(path)
        except FileNotFoundError as error:
            raise _gone(path, file) from error
        if actual != file.sha256:
            raise CorruptFile(mismatch(f"{path}, which holds {file.path},", file.sha256, actual))

    def _digest(self, path: Path) -> str:
        status = path.stat()
        times = (status.st_mtime_ns, status.st_ctime_ns)
        key = (status.st_dev, status.st_ino, *times, status.st_size)
        if key not in self._hashed:
            self._hashed[key] = sha256(path)
        return self._hashed[key]

    def _links(self, target: Path, files: Sequence[FileEntry]) -> bool:
        """Whether `target` holds exactly `files`, each the very file that the blob is."""
        try:
            return set(os.listdir(target)) == {file.path for file in files} and all(
                (target / file.path).samefile(self.path(file.sha256)) for file in files
            )
        except FileNotFoundError:
            return False

    def _link(self, target: Path, files: Sequence[FileEntry]) -> None:
        target.parent.mkdir(exist_ok=True)
        with self.staging() as staging:
            fresh = staging / "fresh"
            fresh.mkdir()
            for file in files:
                try:
                    os.link(self.path(file.sha256), fresh / file.path)
                except FileNotFoundError as error:
                    raise _gone(self.path(file.sha256), file) from error
            try:
                os.rename(fresh, target)
            except OSError:
                if self._links(target, files):
                    return  # Somebody else built it in the meantime.
                if not target.exists():
                    raise
                os.rename(target, staging / "stale")
                os.rename(fresh, target)


def _copy(source: Path, target: Path) -> str:
    """Copy, read-only and on disk for good. Returns the SHA-256 of what is there now.

    The kernel copies (`sendfile`), and what it wrote is hashed: together half the time that it
    takes to pass every byte through this process.
    """
    shutil.copyfile(source, target)
    with target.open("rb") as copy:
        os.fchmod(copy.fileno(), 0o444)
        os.fsync(copy.fileno())
        return hashlib.file_digest(copy, "sha256").hexdigest()


def _gone(path: Path, file: FileEntry) -> CorruptFile:
    return CorruptFile(f"{path}, which holds {file.path}, is gone.")


def fsync(directory: Path) -> None:
    """Make the names in `directory` durable, as `os.fsync` does a file's bytes."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
