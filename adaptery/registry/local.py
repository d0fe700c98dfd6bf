"""The default registry: a directory with a SQLite catalogue and content-addressed blobs.

::

    catalogue.sqlite3       versions, aliases, events: `schema.py`
    blobs/ checkouts/ tmp/  files: `blobs.py`

Publishing makes every file durable first and then commits one transaction; that commit is the
publish. Killed before it, a process leaves files that nothing refers to, and no version.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from adaptery.registry.files.blobs import BlobStore, Stored
from adaptery.registry.line import Line
from adaptery.registry.line_registry import LineRegistry
from adaptery.registry.reports import Finding, Leftovers
from adaptery.registry.sql.catalogue import Catalogue
from adaptery.registry.sql.database import Database
from adaptery.registry.steps import Decide
from adaptery.types import (
    AdapterPackage,
    AdapterRef,
    Alias,
    Event,
    FileEntry,
    LifecycleHooks,
    Version,
)

_BATCH = 100  # blobs that collection looks at in one transaction


class LocalRegistry(LineRegistry):
    """Versions of adapters in a directory, which is made on the first publish."""

    def __init__(self, root: Path, hooks: LifecycleHooks | None = None) -> None:
        super().__init__(str(root), hooks)
        self._root = root
        self._blobs = BlobStore(root)
        self._opened: Catalogue | None = None

    @classmethod
    def open(cls, url: str, hooks: LifecycleHooks | None = None) -> Self:
        """Open the registry in the directory `url`, a path or `file://` and a path."""
        return cls(Path(url.removeprefix("file://")).expanduser().absolute(), hooks)

    def resolve(self, ref: AdapterRef) -> Version:
        catalogue = self._catalogue()
        version = catalogue.resolve(ref) if catalogue else None
        # The long way finds nothing either, but says what there is.
        return version or super().resolve(ref)

    def materialize(self, version: Version) -> Path:
        return self._blobs.checkout(version.digest, version.manifest.files)

    def lease(self, version: Version, holder: str, seconds: float) -> None:
        self._blobs.leases.take(version.digest, holder, seconds)

    def release(self, version: Version, holder: str) -> None:
        self._blobs.leases.drop(version.digest, holder)

    def versions(self, name: str | None = None) -> Sequence[Version]:
        catalogue = self._catalogue()
        return catalogue.versions(name) if catalogue else ()

    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        catalogue = self._catalogue()
        return catalogue.aliases(name) if catalogue else ()

    def gc(self, *, grace: float = 86400.0, dry_run: bool = False) -> Leftovers:
        swept = self._blobs.sweep(grace, dry_run=dry_run)
        catalogue = self._catalogue()
        old = [b for b in self._blobs.stored() if b.modified <= time.time() - grace]
        for start in range(0, len(old) if catalogue else 0, _BATCH):
            swept += self._collect(self._made_catalogue(), old[start : start + _BATCH], dry_run)
        return swept

    def _collect(self, catalogue: Catalogue, blobs: Sequence[Stored], dry_run: bool) -> Leftovers:
        swept = Leftovers()
        with catalogue.collecting([blob.digest for blob in blobs]) as orphans:
            for blob in blobs:
                if blob.digest in orphans:
                    swept += Leftovers(blobs=1, bytes=blob.size)
                    if not dry_run:
                        self._blobs.remove(blob.digest)
        return swept

    def _examine(self, repair: bool) -> Iterable[Finding]:
        catalogue = self._catalogue()
        return catalogue.check(repair=repair) if catalogue else ()

    def _set_aside(self, version: Version, file: FileEntry) -> str:
        kept = self._blobs.set_aside(file.sha256, version.digest)
        return f"Moved to {kept}; publish or pull {version} again to bring it back."

    def _rehash(self, version: Version, file: FileEntry) -> str | None:
        return self._blobs.rehash(file.sha256)

    def _forget(self) -> None:
        if catalogue := self._catalogue():
            catalogue.forget()

    def _names(self) -> Sequence[str]:
        catalogue = self._catalogue()
        return catalogue.names() if catalogue else ()

    def _line(self, name: str) -> Line:
        catalogue = self._catalogue()
        return catalogue.line(name) if catalogue else Line(name)

    def _version(self, line: Line, number: int) -> Version:
        return self._made_catalogue().version(line.name, number)

    def _commit(
        self, name: str, decide: Decide, package: AdapterPackage | None = None
    ) -> Event | None:
        if package is None:
            return self._made_catalogue().commit(name, decide, None)
        for file in package.manifest.files:
            self._blobs.add(package.directory / file.path, file.sha256)
        return self._made_catalogue().commit(name, decide, package.manifest)

    def _catalogue(self) -> Catalogue | None:
        """The catalogue, if somebody has published here by now."""
        if self._opened is None:
            path = self._root / "catalogue.sqlite3"
            with self._blobs.sentences():
                self._opened = Catalogue(Database(path)) if path.is_file() else None
        return self._opened

    def _made_catalogue(self) -> Catalogue:
        """The catalogue, made now if there is none."""
        catalogue = self._catalogue()
        if catalogue is None:
            with self._blobs.staging() as staging:
                Database.create(self._root / "catalogue.sqlite3", staging)
            catalogue = self._catalogue()
        assert catalogue is not None, "it was made just now"
        return catalogue
