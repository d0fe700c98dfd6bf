"""The SQLite file of a local registry: opening, making and migrating it, and its transactions.

Write-ahead logging with `synchronous=FULL`: what a commit has acknowledged survives a power cut.
Writers queue for the one write lock (`BEGIN IMMEDIATE`); readers never wait.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, inspect

from adaptery.errors import RegistryError
from adaptery.registry.files.blobs import fsync
from adaptery.registry.sql.schema import HEAD

_LOCK_TIMEOUT_S = 30
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One SQLite file. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, and bring it up to date if an older adaptery wrote it.

        Raises:
            RegistryError: a newer adaptery wrote it, or it is not a catalogue.
        """
        self.path = path
        self._engine = _engine(path)
        with self.read() as connection:
            current = _revision(connection)
        if current != HEAD:
            with self.write() as connection:
                _migrate(connection, path)

    @classmethod
    def create(cls, path: Path, staging: Path) -> None:
        """Make an empty catalogue at `path`, whole or not at all. If there is one, it stays.

        `staging` is a directory on the same file system for the unfinished file.
        """
        fresh = staging / path.name
        cls(fresh).close()
        try:
            os.link(fresh, path)
        except FileExistsError:
            return  # Another process made one at the same time, as whole as ours.
        fsync(path.parent)

    def close(self) -> None:
        """Close every connection; SQLite then merges its log into the file."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on which every statement sees the newest commit."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection on which all statements see the same commit."""
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The only write transaction that there is now; committed unless an error leaves it."""
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """A transaction during which nobody adds a version."""
        with self.write() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise RegistryError(f"The catalogue {self.path} failed: {error.orig}.") from error


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


def _revision(connection: Connection) -> str | None:
    """The newest migration that the file has seen, None for an empty file."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _migrate(connection: Connection, path: Path) -> None:
    """Run the migrations that the file has not seen, in the caller's transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = _revision(connection)
    if current is not None and current not in known:
        raise RegistryError(
            f"The catalogue {path} was written by a newer adaptery (its schema is {current!r}, "
            f"this one knows {HEAD!r}). Upgrade adaptery to use it."
        )
    command.upgrade(config, "head")
