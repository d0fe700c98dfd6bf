"""What a list shows: which versions, in which order, how many; the same in every registry."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from adaptery.errors import UnknownName, UsageError
from adaptery.registry.line import Line
from adaptery.types import Manifest, Version

Row = TypeVar("Row")
_METRIC = "metric."
_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")


@dataclass(frozen=True, slots=True)
class Query:
    """Filters, order and page of a list.

    Args:
        base: the base's id, or the first 8 or more digits of its digest.
        method: the training method.
        sort: `name`; `published`, the last first; or `metric.NAME`, the highest first and those
            without that metric last.
        limit: at most so many rows, from `offset` on; None for all.

    Raises:
        UsageError: `sort` is none of these, or `limit` or `offset` makes no page.
    """

    base: str | None = None
    method: str | None = None
    sort: str = "name"
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if self.sort not in ("name", "published") and not self.metric:
            raise UsageError(
                f"A list cannot be sorted by {self.sort!r}: use name, published, or a metric such "
                "as metric.f1."
            )
        if self.offset < 0 or (self.limit is not None and self.limit < 1):
            raise UsageError(
                f"There is no page of {self.limit} rows after {self.offset}: a limit is at least "
                "1 and an offset at least 0."
            )

    @property
    def metric(self) -> str | None:
        """The metric to sort by, if it is one."""
        return self.sort.removeprefix(_METRIC) if self.sort.startswith(_METRIC) else None

    @property
    def base_prefix(self) -> str | None:
        """The hexadecimal digits that the base's digest may begin with, if `base` can be such."""
        match = _PREFIX.fullmatch(self.base or "")
        return match[1] if match else None

    def takes(self, manifest: Manifest) -> bool:
        """Whether the filters let a version pass."""
        return self.method in (None, manifest.method) and (
            self.base in (None, manifest.base.id)
            or (self.base_prefix is not None and manifest.base.digest.startswith(self.base_prefix))
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """An adapter in a list: the newest of its versions that fit the query.

    A yanked version stands for it only if all that fit are yanked. `versions` counts all that it
    has, and `aliases` says which number each alias means.
    """

    newest: Version
    versions: int
    aliases: Mapping[str, int]
    yanked: bool = False


def listed(line: Line, query: Query, read: Callable[[int], Version]) -> Listed | None:
    """The row of one adapter, None if no version fits. `read` gives a version by its number."""
    yanked = line.yanked
    for number in sorted(line.digests, key=lambda number: (number in yanked, -number)):
        version = read(number)
        if query.takes(version.manifest):
            aliases = {name: line.aliases[name].number for name in sorted(line.aliases)}
            return Listed(version, len(line.digests), aliases, number in yanked)
    return None


def page(rows: Iterable[Listed], query: Query) -> list[Listed]:
    """The rows of the query's page; `rows` come in order of their names.

    Raises:
        UnknownName: none has the metric to sort by.
    """
    return _cut(_sort(rows, query, lambda row: row.newest), query)


def select_versions(versions: Iterable[Version], query: Query) -> list[Version]:
    """Those versions of one adapter, in order of number, that are on the query's page.

    Raises:
        UnknownName: none has the metric to sort by.
    """
    fitting = (version for version in versions if query.takes(version.manifest))
    return _cut(_sort(fitting, query, lambda version: version), query)


def unknown_metric(name: str, known: Iterable[str]) -> UnknownName:
    """The error for a metric that none of the versions has."""
    return UnknownName("metric", name, known, "A metric is what the evaluation in training gave.")


def _sort(rows: Iterable[Row], query: Query, version_of: Callable[[Row], Version]) -> Iterator[Row]:
    if query.sort == "name":
        return iter(rows)
    if query.metric is None:
        newest_first = sorted(rows, key=lambda row: version_of(row).created_at, reverse=True)
        return iter(newest_first)
    found = [(version_of(row).manifest.metrics, row) for row in rows]
    having = [(metrics[query.metric], row) for metrics, row in found if query.metric in metrics]
    if found and not having:
        raise unknown_metric(query.metric, {name for metrics, _ in found for name in metrics})
    having.sort(key=lambda pair: -pair[0])
    lacking = [row for metrics, row in found if query.metric not in metrics]
    return iter([row for _, row in having] + lacking)


def _cut(rows: Iterator[Row], query: Query) -> list[Row]:
    end = None if query.limit is None else query.offset + query.limit
    return list(islice(rows, query.offset, end))
