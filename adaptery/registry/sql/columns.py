"""Column types that mean the same in every database. Migrations use them too: never change one."""

from sqlalchemy import String


def plain(length: int) -> String:
    """A short text that is compared and sorted byte by byte.

    SQLite always does so; PostgreSQL otherwise sorts by the database's language, in which
    `a-1` can come after `a1`, and digits and dates need not come in order.
    """
    return String(length).with_variant(String(length, collation="C"), "postgresql")
