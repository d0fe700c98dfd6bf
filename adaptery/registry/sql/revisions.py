"""Which schema a catalogue has, and bringing it to ours with Alembic."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect

from adaptery.errors import RegistryError
from adaptery.registry.sql.schema import HEAD

_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps what it is doing in global variables.
_MIGRATIONS = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """The newest migration that the database has seen, None if it is no catalogue yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def require_head(found: str | None, catalogue: str) -> None:
    """Go on only with a catalogue of our own schema.

    Raises:
        RegistryError: it is an older or a newer one; the message says what to do.
    """
    if found == HEAD:
        return
    require_known(found, catalogue)
    raise RegistryError(
        f"The catalogue {catalogue} was written by an older adaptery (its schema is {found!r}, "
        f"this one needs {HEAD!r}). Run `adapters registry migrate`, which keeps a backup; "
        "an older adaptery cannot use it afterwards."
    )


def require_known(found: str | None, catalogue: str) -> None:
    """Raise `RegistryError` if the catalogue has a schema that we have never heard of, or none."""
    if found is None:
        raise RegistryError(
            f"{catalogue} is an empty database and no catalogue. Remove it, and "
            "`adapters registry init` makes one."
        )
    if found not in _known():
        raise RegistryError(
            f"The catalogue {catalogue} was written by a newer adaptery, or is another program's "
            f"(its schema is {found!r}, this one knows {HEAD!r}). Upgrade adaptery, or name "
            "another database."
        )


def backup_label(found: str | None) -> str:
    """What tells a backup from others: schema and time, as in `0001-20261121T071955123456Z`."""
    return f"{found}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"


def upgrade(connection: Connection, target: str = "head") -> None:
    """Run the migrations that the database has not seen, in the caller's transaction."""
    from alembic import command

    with _ONE_AT_A_TIME:
        command.upgrade(_config(connection), target)


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory.from_config(_config(None))
    return {script.revision for script in directory.walk_revisions()}


def _config(connection: Connection | None) -> Any:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
