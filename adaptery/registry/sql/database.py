"""A catalogue's database: its transactions, and how it is made and migrated.

One code path over SQLite (`sqlite.py`) and PostgreSQL (`postgres.py`); they differ in how a
transaction begins, how it is kept alone, how a backup is made, and what their errors mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from sqlalchemy import Connection, Engine

from adaptery.errors import RegistryError
from adaptery.registry.sql.revisions import (
    backup_label,
    require_head,
    require_known,
    revision,
    upgrade,
)
from adaptery.registry.sql.schema import HEAD


class Database(ABC):
    """One database. Safe to share between threads. Errors are sentences that call it `name`."""

    backend: ClassVar[str]

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self._engine = engine

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """A connection on which every statement sees the newest commit."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Connection]:
        """A connection on which all statements see the same commit."""

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[Connection]:
        """A transaction during which nobody adds a version."""

    @abstractmethod
    def _begin(self) -> AbstractContextManager[Connection]:
        """A transaction that writes; committed unless an error leaves it."""

    @abstractmethod
    def _alone(self) -> AbstractContextManager[Connection]:
        """A transaction beside which nobody else makes or migrates the catalogue."""

    @abstractmethod
    def _back_up(self, connection: Connection, label: str) -> str:
        """Keep a copy of everything, as `connection` sees it. Returns where."""

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; committed unless an error leaves it.

        Raises:
            RegistryError: another adaptery has migrated the catalogue since it was opened.
        """
        with self._begin() as connection:
            query = "SELECT version_num FROM alembic_version"
            require_head(connection.exec_driver_sql(query).scalar(), self.name)
            yield connection

    def revision(self) -> str | None:
        """The newest migration that the database has seen, None if it is no catalogue yet."""
        with self.read() as connection:
            return revision(connection)

    def create(self) -> bool:
        """Make the catalogue's tables. If they are there, they stay. Returns whether it made them.

        However many processes do this at once, one makes them and all find them made.
        """
        with self._alone() as connection:
            if revision(connection) is not None:
                return False
            upgrade(connection)
            return True

    def migrate(self) -> str | None:
        """Bring the catalogue to our schema. Returns where the backup is; None: nothing to do.

        Raises:
            RegistryError: there is no catalogue, or a newer adaptery wrote it.
        """
        with self._alone() as connection:
            found = revision(connection)
            if found == HEAD:
                return None
            require_known(found, self.name)
            place = self._back_up(connection, backup_label(found))
            try:
                upgrade(connection)
            except (KeyError, TypeError, ValueError) as error:
                raise RegistryError(
                    f"{self.name} holds what cannot be migrated ({error}), so nothing was changed."
                ) from error
        return place

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
