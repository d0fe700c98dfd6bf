"""The default registry: a directory with a SQLite catalogue and content-addressed blobs.

::

    catalogue.sqlite3       versions, aliases, events: `schema.py`
    backups/                the catalogue as it was before each migration
    blobs/ checkouts/ tmp/  files: `blobs.py`
"""

from pathlib import Path
from typing import ClassVar, Self

from adaptery.errors import InvalidName
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.files.mounts import refuse_unsafe
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.registry import SqlRegistry
from adaptery.registry.sql.sqlite import SqliteDatabase, create_file
from adaptery.types import LifecycleHooks


class LocalRegistry(SqlRegistry):
    """Versions of adapters in a directory, which is made on the first publish."""

    backend: ClassVar[str] = "a directory: SQLite and blobs"

    def __init__(self, root: Path, hooks: LifecycleHooks | None = None) -> None:
        blobs = BlobStore(root)
        super().__init__(str(root), blobs, blobs, hooks)
        self._path = root / "catalogue.sqlite3"
        self._file: SqliteDatabase | None = None

    @classmethod
    def open(cls, url: str, hooks: LifecycleHooks | None = None) -> Self:
        """Open the registry in the directory `url`, a path or `file://` and a path.

        Raises:
            InvalidName: `url` is empty, or something else than a directory lies there.
        """
        path = url.removeprefix("file://")
        root = Path(path).expanduser().absolute()
        if not path or (root.exists() and not root.is_dir()):
            raise InvalidName(
                f"{url!r} is no registry: give a directory, postgresql://…?blobs=URL or hf://ORG."
            )
        return cls(root, hooks)

    def _database(self) -> Database | None:
        with self._cache.sentences():
            if self._file is None and self._path.is_file():
                refuse_unsafe(self._path.parent)
                self._file = SqliteDatabase(self._path)
        return self._file

    def _make(self) -> bool:
        if self._database() is not None:
            return False
        with self._cache.staging() as staging:
            refuse_unsafe(self._path.parent)
            return create_file(self._path, staging)
