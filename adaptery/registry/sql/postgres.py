"""A team registry's catalogue in PostgreSQL, through psycopg.

Writers about one adapter queue for its row in `adapters`; others pass each other. What a commit
has acknowledged is as durable as the server's `synchronous_commit` makes it: leave that on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, exc, inspect

from adaptery.errors import RegistryError, RemoteError
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.schema import metadata

_CONNECT_TIMEOUT_S = 10
_LOCK_TIMEOUT_S = 30
# Any number does that no other program is likely to lock: it spells the name.
_MIGRATING = int.from_bytes(b"adaptery")


class PostgresDatabase(Database):
    """One PostgreSQL database. Connections are made when needed, kept, and checked before use."""

    backend: ClassVar[str] = "PostgreSQL"

    def __init__(self, url: URL, name: str) -> None:
        """`url` as libpq understands it; `name` is what errors call it, without the password.

        Raises:
            RegistryError: psycopg is not installed, or `url` holds options that it does not know.
        """
        super().__init__(name, _engine(url))
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._repeatable = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._translated(), self._autocommit.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self._translated(), self._repeatable.begin() as connection:
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        with self.write() as connection:
            # Inserts into the table wait for this lock, and it for those under way.
            connection.exec_driver_sql("LOCK TABLE versions IN SHARE ROW EXCLUSIVE MODE")
            yield connection

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'")
            yield connection

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        with self._begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
            yield connection

    def _back_up(self, connection: Connection, label: str) -> str:
        """A schema with copies of all tables, made in the transaction that migrates."""
        ours = {*metadata.tables, "alembic_version"} & set(inspect(connection).get_table_names())
        for table in sorted(ours):  # Whoever writes finishes first; whoever comes next waits.
            connection.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        schema = f"backup_{label.replace('-', '_').lower()}"
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        for table in sorted(ours):
            connection.exec_driver_sql(f"CREATE TABLE {schema}.{table} AS TABLE {table}")
        return f"the schema {schema} of {self.name}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            reason = " ".join(str(error.orig).split()).rstrip(".?")
            # What the server said has a code; without one there was no server to say it.
            if isinstance(error, exc.OperationalError) and not _code(error):
                raise RemoteError(f"{self.name} cannot be reached: {reason}.") from error
            raise RegistryError(f"{self.name} failed: {reason}.") from error


def _engine(url: URL) -> Engine:
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
        )
    except ModuleNotFoundError as error:
        raise RegistryError(
            "PostgreSQL needs the extra `team`: pip install 'adaptery[team]'."
        ) from error


def _code(error: exc.DBAPIError) -> Any:
    """The SQLSTATE of an error; None if it did not come from the server."""
    return getattr(error.orig, "sqlstate", None)
