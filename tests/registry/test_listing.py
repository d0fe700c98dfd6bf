"""Lists over each kind of registry: filters, order, pages."""

import pytest

from adaptery.errors import UnknownName, UsageError
from adaptery.registry.listing import Query, select_versions
from adaptery.types import AdapterRef, BaseIdentity

SMALL = BaseIdentity(id="org/small", digest="a1" * 32)
LARGE = BaseIdentity(id="org/large", digest="a1a1a1a1" + "c3" * 28)


@pytest.fixture
def several(registry, adapter):
    """Four adapters; `bear` has three versions, two of them on the small base."""
    registry.publish("cow", adapter(1, base=SMALL, metrics={"f1": 0.5, "loss": 1.0}))
    registry.publish("bear", adapter(2, base=SMALL, metrics={"f1": 0.9}))
    registry.publish("bear", adapter(3, base=SMALL, metrics={"f1": 0.7}))
    registry.publish("bear", adapter(4, base=LARGE))
    registry.publish("dog", adapter(5, base=LARGE, metrics={"f1": 0.6}))
    registry.publish("ant", adapter(6, base=LARGE))
    return registry


def found(registry, **query):
    return [str(row.newest) for row in registry.newest(Query(**query))]


def test_each_adapter_is_listed_by_name_with_its_newest_version(several):
    rows = several.newest()
    assert [str(row.newest) for row in rows] == ["ant@1", "bear@3", "cow@1", "dog@1"]
    assert [row.versions for row in rows] == [1, 3, 1, 1]
    assert rows[1].newest == several.resolve(AdapterRef("bear", number=3))


def test_a_row_tells_where_the_adapters_aliases_point(several):
    several.promote(AdapterRef("bear", number=2), "canary")
    bear = several.newest(Query(limit=1, offset=1))[0]
    assert dict(bear.aliases) == {"canary": 2, "live": 1}
    assert list(bear.aliases) == ["canary", "live"]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("org/small", ["bear@2", "cow@1"]),
        ("org/large", ["ant@1", "bear@3", "dog@1"]),
        ("sha256:" + "a1" * 5, ["bear@2", "cow@1"]),
        ("a1" * 32, ["bear@2", "cow@1"]),
        ("a1" * 4, ["ant@1", "bear@3", "cow@1", "dog@1"]),
        ("a1" * 3, []),
        ("org/", []),
    ],
)
def test_a_base_is_an_id_or_the_beginning_of_a_digest(several, base, expected):
    assert found(several, base=base) == expected


def test_a_filter_finds_the_newest_version_that_fits_and_counts_all(several):
    bear = several.newest(Query(base="org/small"))[0]
    assert (str(bear.newest), bear.versions) == ("bear@2", 3)
    assert found(several, method="lora") == found(several)
    assert found(several, method="qlora") == []


def test_a_yanked_version_stands_for_its_adapter_only_if_all_are_yanked(several):
    several.yank(AdapterRef("bear", number=3), "it swears")
    assert [(str(row.newest), row.yanked) for row in several.newest()][1] == ("bear@2", False)
    bear = several.newest(Query(base="org/large"))[1]
    assert (str(bear.newest), bear.yanked) == ("bear@3", True)
    several.unyank(AdapterRef("bear", number=3))
    assert found(several)[1] == "bear@3"


def test_the_highest_score_comes_first_and_those_without_it_last(several):
    assert found(several, sort="metric.f1") == ["dog@1", "cow@1", "ant@1", "bear@3"]
    assert found(several, sort="metric.f1", base="org/small") == ["bear@2", "cow@1"]
    assert found(several, sort="metric.f1", limit=1, offset=1) == ["cow@1"]


def test_the_last_published_comes_first(several):
    assert found(several, sort="published") == ["ant@1", "dog@1", "bear@3", "cow@1"]


def test_pages_put_together_are_the_whole_list(several):
    for sort in ("name", "published", "metric.f1"):
        pages = [found(several, sort=sort, limit=3, offset=offset) for offset in (0, 3, 6)]
        assert [len(page) for page in pages] == [3, 1, 0]
        assert [name for page in pages for name in page] == found(several, sort=sort)


def test_an_unknown_metric_is_refused_with_those_that_there_are(several):
    with pytest.raises(UnknownName, match=r"no metric 'f2'\. Known: f1, loss"):
        several.newest(Query(sort="metric.f2"))
    with pytest.raises(UnknownName, match=r"no metric 'loss'"):
        several.newest(Query(sort="metric.loss", base="org/large"))
    assert found(several, sort="metric.f1", limit=9, offset=2) == ["ant@1", "bear@3"]


def test_an_empty_registry_has_empty_lists(registry):
    for sort in ("name", "published", "metric.f1"):
        assert list(registry.newest(Query(sort=sort))) == []


@pytest.mark.parametrize(
    "query", [{"sort": "size"}, {"sort": "metric."}, {"limit": 0}, {"offset": -1}]
)
def test_a_list_that_cannot_be_is_refused(query):
    with pytest.raises(UsageError):
        Query(**query)


def test_the_versions_of_one_adapter_are_filtered_sorted_and_paged_alike(several):
    versions = several.versions("bear")

    def chosen(**query):
        return [version.number for version in select_versions(versions, Query(**query))]

    assert chosen() == [1, 2, 3]
    assert chosen(base="org/small") == [1, 2]
    assert chosen(sort="metric.f1") == [1, 2, 3]
    assert chosen(sort="published", limit=2) == [3, 2]
    with pytest.raises(UnknownName, match="no metric 'f2'"):
        chosen(sort="metric.f2")
