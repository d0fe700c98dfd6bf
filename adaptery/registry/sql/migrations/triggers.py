"""Triggers by which the database itself refuses to rewrite what has happened."""

from alembic import op

_SENTENCE = "{table} are never changed or removed"
_POSTGRES_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_to_rewrite() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '% are never changed or removed', TG_TABLE_NAME; END
$$ LANGUAGE plpgsql
"""


def forbid(table: str, *deeds: str) -> None:
    """Let the database refuse `deeds` (UPDATE, DELETE; TRUNCATE too on PostgreSQL) on `table`."""
    postgres = op.get_bind().dialect.name == "postgresql"
    if postgres:
        op.execute(_POSTGRES_FUNCTION)
    for deed in deeds:
        head = f"CREATE TRIGGER {_name(table, deed)} BEFORE {deed} ON {table} "
        if postgres:
            op.execute(head + "FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite()")
        else:
            sentence = _SENTENCE.format(table=table)
            op.execute(head + f"BEGIN SELECT RAISE(ABORT, '{sentence}'); END")
    if postgres and "DELETE" in deeds:
        forbid(table, "TRUNCATE")


def permit(table: str, deed: str) -> None:
    """Take a refusal back, for a migration that must fill new columns; `forbid` it again after."""
    on = f" ON {table}" if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"DROP TRIGGER {_name(table, deed)}{on}")


def _name(table: str, deed: str) -> str:
    return f"{table}_refuse_{deed.lower()}"
