"""A glance into a directory's catalogue: just what a shell offers, with nothing to import first.

SQLAlchemy takes longer to import than somebody who presses a key should wait. Read-only: an older
catalogue is not migrated here, and where there is none, none is made.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

_PATIENCE_S = 0.1


def names(root: Path, beginning: str) -> list[str]:
    """The adapters whose names have this beginning. Raises `sqlite3.Error` if it cannot tell."""
    # No character of a name comes after z, and { comes next.
    statement = "SELECT DISTINCT adapter FROM versions WHERE adapter BETWEEN ? AND ? || '{'"
    with _reading(root) as connection:
        return [name for (name,) in connection.execute(statement, (beginning, beginning))]


def aliases(root: Path, name: str) -> dict[str, int]:
    """The adapter's aliases and what they mean. Raises `sqlite3.Error` if it cannot tell."""
    statement = "SELECT name, number FROM aliases WHERE adapter = ? ORDER BY name"
    with _reading(root) as connection:
        return dict(connection.execute(statement, (name,)).fetchall())


def numbers(root: Path, name: str) -> list[int]:
    """The adapter's versions, the newest first. Raises `sqlite3.Error` if it cannot tell."""
    statement = "SELECT number FROM versions WHERE adapter = ? ORDER BY number DESC"
    with _reading(root) as connection:
        return [number for (number,) in connection.execute(statement, (name,))]


@contextmanager
def _reading(root: Path) -> Iterator[sqlite3.Connection]:
    file = f"file:{quote(str(root / 'catalogue.sqlite3'))}?mode=ro"
    with closing(sqlite3.connect(file, uri=True, timeout=_PATIENCE_S)) as connection:
        yield connection
