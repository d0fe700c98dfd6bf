"""The SQLite file of a local registry.

Write-ahead logging with `synchronous=FULL`: what a commit has acknowledged survives a power cut.
Writers queue for the one write lock (`BEGIN IMMEDIATE`); readers never wait.
"""

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

from adaptery.errors import AdapteryError, CorruptFile, RegistryError
from adaptery.registry.files.blobs import fsync
from adaptery.registry.sql.database import Database

_LOCK_TIMEOUT_S = 30


class SqliteDatabase(Database):
    """One SQLite file."""

    backend: ClassVar[str] = "SQLite"

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _engine(path))
        self._path = path

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        with self.write() as connection:
            yield connection

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """The only write transaction that there is now."""
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        with self._begin() as connection:
            yield connection

    def _back_up(self, connection: Connection, label: str) -> str:
        """A file in `backups/` beside the catalogue, whole and on disk for good."""
        directory, staging = self._path.parent / "backups", self._path.parent / "tmp"
        try:
            directory.mkdir(exist_ok=True)
            staging.mkdir(exist_ok=True)
            kept = directory / f"{self._path.stem}-{label}{self._path.suffix}"
            with tempfile.TemporaryDirectory(dir=staging) as unfinished:
                copy = Path(unfinished) / kept.name
                with (
                    closing(sqlite3.connect(self._path)) as source,
                    closing(sqlite3.connect(copy)) as target,
                ):
                    source.backup(target)
                fsync(copy)
                os.link(copy, kept)
            fsync(directory)
            fsync(directory.parent)
        except (OSError, sqlite3.Error) as error:
            raise RegistryError(
                f"No backup of {self.name} could be made, so nothing was migrated: {_said(error)}."
            ) from error
        return str(kept)

    def merge_log(self) -> None:
        """Have everything in the one file.

        Closing does this as well, but says nothing if it fails.
        """
        with self.read() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise _sentence(self.name, error) from error
        except UnicodeDecodeError as error:  # what SQLite says of a damaged table's definition
            raise RegistryError(f"The catalogue {self.name} is damaged: {error}.") from error


def create_file(path: Path, staging: Path) -> bool:
    """Make a catalogue at `path`, whole or not at all. If there is one, it stays.

    `staging` is a directory on the same file system for the unfinished file. Returns whether it
    was made.
    """
    fresh = SqliteDatabase(staging / path.name)
    fresh.create()
    fresh.merge_log()
    fresh.close()
    try:
        os.link(staging / path.name, path)
    except FileExistsError:
        return False  # Another process made one at the same time, as whole as ours.
    fsync(path.parent)
    return True


def _engine(path: Path) -> Engine:
    # With isolation_level None the driver begins nothing by itself; its commit and rollback still
    # end what `snapshot` and `write` begin.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": _LOCK_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _sentence(name: str, error: exc.DBAPIError) -> AdapteryError:
    """What went wrong with a catalogue."""
    undecodable = re.match("Could not decode to UTF-8 column '([a-z_]+)'", str(error.orig))
    if undecodable:
        return CorruptFile(f"The catalogue {name} is damaged: a {undecodable[1]} is not UTF-8.")
    return RegistryError(f"The catalogue {name} failed: {_said(error.orig)}.")


def _said(error: BaseException | None) -> str:
    """What SQLite says, and what that can mean."""
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_CORRUPT"):  # It says so of a read that the disk refused, too.
        return (
            f"{error}. Either it is damaged, of which `adapters fsck` says more, or the disk is "
            "failing"
        )
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return (
            f"{error}. Look whether the disk is full or failing, whether this user may write "
            "there, and whether too many files are open (see `ulimit -n`)"
        )
    return str(error)
