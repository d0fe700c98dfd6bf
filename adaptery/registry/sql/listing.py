"""The page of a list from the catalogue: one statement for its rows, one for their aliases.

Rows of `versions` are long, so the page is found in the index `versions_to_list` alone, adapter by
adapter, and only the rows on it are read.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    case,
    exists,
    func,
    null,
    or_,
    select,
)

from adaptery.registry.listing import Listed, Query, unknown_metric
from adaptery.registry.sql.rows import to_version
from adaptery.registry.sql.schema import adapters, aliases, metrics, versions, yanks

_YANKED = exists().where(yanks.c.adapter == versions.c.adapter, yanks.c.number == versions.c.number)


def newest(connection: Connection, query: Query) -> list[Listed]:
    """The adapters on the query's page, each with the newest of its versions that fit.

    Raises:
        UnknownName: none has the metric to sort by.
        CorruptFile: a manifest no longer has its digest.
    """
    rows = connection.execute(_rows(query)).all()
    if query.metric is not None and rows and rows[0].rank is None:
        _check_metric(connection, query)
    pointing: dict[str, dict[str, int]] = defaultdict(dict)
    names = [row.adapter for row in rows]
    chosen = select(aliases).where(aliases.c.adapter.in_(names)).order_by(aliases.c.name)
    for alias in connection.execute(chosen):
        pointing[alias.adapter][alias.name] = alias.number
    return [
        Listed(to_version(row), row.versions, pointing[row.adapter], bool(row.yanked))
        for row in rows
    ]


def _rows(query: Query) -> Select[Any]:
    """The page's rows of `versions`, with `rank`, `yanked` and the count `versions`."""
    page = _page(query).subquery()
    others = versions.alias()
    count = select(func.count()).select_from(others).where(others.c.adapter == page.c.adapter)
    return (
        select(
            versions,
            page.c.rank,
            _YANKED.label("yanked"),
            count.scalar_subquery().label("versions"),
        )
        .join(page, (versions.c.adapter == page.c.adapter) & (versions.c.number == page.c.number))
        .order_by(*_order(query, page.c.rank, page.c.adapter))
    )


def _page(query: Query) -> Select[Any]:
    """Adapter, number and rank of the page's rows."""
    chosen = _chosen(query)
    rank = _rank(query, chosen).label("rank")
    return (
        select(chosen.c.adapter, chosen.c.number, rank)
        .where(chosen.c.number.is_not(None))
        .order_by(*_order(query, rank, chosen.c.adapter))
        .limit(query.limit)
        .offset(query.offset)
    )


def _chosen(query: Query) -> FromClause:
    """Each adapter with the number of its newest version that fits; a yanked one if need be."""
    fitting = select(versions.c.number).where(versions.c.adapter == adapters.c.name)
    if query.method is not None:
        fitting = fitting.where(versions.c.method == query.method)
    if query.base is not None:
        fitting = fitting.where(_is_base(query.base, query.base_prefix))
    fitting = fitting.order_by(versions.c.number.desc()).limit(1)
    in_use = fitting.where(~_YANKED).scalar_subquery()
    has_yanked = exists().where(yanks.c.adapter == adapters.c.name)
    yanked = case((has_yanked, fitting.scalar_subquery()))
    number = func.coalesce(in_use, yanked)
    chosen = select(adapters.c.name.label("adapter"), number.label("number"))
    if query.sort == "name":
        return chosen.subquery("chosen")  # read only as far as the page goes
    return chosen.cte("chosen").prefix_with("MATERIALIZED")  # each number found once, not thrice


def _is_base(base: str, prefix: str | None) -> ColumnElement[bool]:
    named = versions.c.base_id == base
    if prefix is None:
        return named
    return or_(named, versions.c.base_digest.between(prefix, prefix + "g"))


def _rank(query: Query, chosen: FromClause) -> ColumnElement[Any]:
    """What to sort by before the name."""
    if query.sort == "name":
        return null()
    adapter, number = chosen.c.adapter, chosen.c.number
    if query.metric is not None:
        value = select(metrics.c.value).where(metrics.c.name == query.metric)
        value = value.where(metrics.c.adapter == adapter, metrics.c.number == number)
        return value.scalar_subquery()
    # With `=`, SQLite would prefer the primary key's index and read the long row behind it.
    same = versions.c.number.between(number, number)
    published = select(versions.c.created_at).where(versions.c.adapter == adapter, same)
    return published.scalar_subquery()


def _order(query: Query, rank: ColumnElement[Any], name: ColumnElement[str]) -> list[Any]:
    return [name] if query.sort == "name" else [rank.desc().nulls_last(), name]


def _check_metric(connection: Connection, query: Query) -> None:
    """Raise `UnknownName` unless a row on an earlier page has the metric."""
    first = connection.execute(_page(query).limit(1).offset(0)).first()
    if first is None or first.rank is None:
        known = connection.scalars(select(metrics.c.name).distinct())
        raise unknown_metric(query.metric or "", known)
