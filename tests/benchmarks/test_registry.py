"""The registry's benchmark in small: what it fills is a registry, what it reports is counted."""

import pytest

from adaptery.registry.listing import Query
from adaptery.types import AdapterRef
from benchmarks.crowd import ours
from benchmarks.filled import BASES, fill, name_of
from benchmarks.publishers import jobs_of, together
from benchmarks.registry import lists, lookups, publish_speed
from tests.adapters import make_adapter


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("filled") / "registry", adapters=60, versions=3)


@pytest.fixture
def made(tmp_path):
    """Two processes' adapters, two for each."""
    for number in range(4):
        make_adapter(tmp_path / "made" / str(number // 2) / str(number % 2), seed=number)
    return tmp_path / "made"


def test_what_is_filled_in_is_what_publishing_would_have_left(filled):
    assert len(filled.names()) == 60
    assert filled.resolve(AdapterRef(name_of(7), alias="live")).number == 1
    assert [row.versions for row in filled.newest(Query(base=BASES[0].id))] == [3] * 8
    # Only the files are not there.
    findings = filled.fsck()
    assert len(findings) == 60 * 3 * 2
    assert all("is gone" in finding.problem for finding in findings)


def test_lookups_and_lists_are_measured_against_their_bars(filled):
    figures = [*lookups(filled, 60, 200), *lists(filled, 60, 3)]
    assert len([figure for figure in figures if figure.ok is not None]) == 5


def test_publishing_is_measured_beside_its_yardstick(tmp_path):
    figure = publish_speed(tmp_path, 2)
    assert figure.measured.split()[0].isdigit()


@pytest.mark.parametrize("names", [1, 2])
def test_a_crowd_publishes_everything(tmp_path, made, names):
    outcome = ours(tmp_path / "registry", made, names)
    assert (outcome.published, outcome.failures) == (4, {})
    assert outcome.per_second > 0


def test_failures_in_a_crowd_are_counted_by_what_they_say(made):
    def open_peer():
        def publish(name, directory):
            if directory.name == "1":
                raise ValueError("no\nnever")

        return publish

    outcome = together(open_peer, jobs_of(made, 1))
    assert (outcome.published, outcome.failures) == (2, {"ValueError: no": 2})
