"""Crowds of publishers, readers and collectors: nothing lost, nothing missing, no lock needed."""

import fcntl
import hashlib
import random
import time
from pathlib import Path

import pytest

from adaptery.errors import Conflict
from adaptery.types import AdapterRef
from tests.adapters import make_adapter
from tests.torture.crowd import (
    NAME,
    assert_linear,
    assert_nothing_lost,
    open_registry,
    publish_some,
    run,
)


@pytest.fixture
def size(exhaustive):
    """Publishers, and versions of each."""
    return (32, 25) if exhaustive else (8, 5)


@pytest.fixture
def seconds(exhaustive):
    """How long publishers, readers and collectors go on."""
    return 180 if exhaustive else 4


@pytest.fixture(params=["directory", "team", "hub"])
def url(request, tmp_path, monkeypatch):
    """Where the crowd meets."""
    if request.param == "hub":
        request.getfixturevalue("hub")
        return "hf://org"
    if request.param == "team":
        monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))
        return f"{request.getfixturevalue('postgres')}?blobs=file://{tmp_path / 'blobs'}"
    return str(tmp_path / "registry")


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "registry")


def test_publishers_at_once_lose_nothing(url, size, tmp_path, report, request):
    publishers, each = size
    begun = time.monotonic()
    run(publish_some, [(url, tmp_path / "made", 100 * i, each) for i in range(publishers)])
    took = time.monotonic() - begun
    seeds = {100 * i + j for i in range(publishers) for j in range(each)}
    assert_nothing_lost(open_registry(url), seeds)
    where = request.node.callspec.params["url"]
    report("races", f"publishers, {where}", versions=len(seeds), seconds=round(took))


def without_locks(act, *arguments):
    """`act` where taking a file lock succeeds and does nothing, as on some network disks."""
    fcntl.flock = fcntl.lockf = lambda *_: None
    act(*arguments)


def test_publishers_need_no_file_locks_of_ours(directory, size, tmp_path):
    publishers, each = size
    given = [(publish_some, directory, tmp_path / "made", 100 * i, each) for i in range(publishers)]
    run(without_locks, given)
    seeds = {100 * i + j for i in range(publishers) for j in range(each)}
    assert_nothing_lost(open_registry(directory), seeds)


@pytest.mark.parametrize("url", ["directory", "team"], indirect=True)
def test_collection_takes_nothing_from_publishers_and_readers(
    url, seconds, tmp_path, report, request
):
    open_registry(url).publish(NAME, make_adapter(tmp_path / "first", seed=0))
    until = time.time() + seconds
    made = tmp_path / "made"
    run(
        do,
        [
            *((publish_until, url, made, until, 10**6 * i) for i in range(1, 4)),
            *((read_until, url, made, until, i) for i in range(3)),
            *((collect_until, url, made, until, i) for i in range(2)),
        ],
    )
    registry = open_registry(url)
    assert list(registry.fsck()) == []
    assert_linear(registry)
    counts = {act: counted(made, act) for act in ("published", "read", "collected")}
    assert all(counts.values())
    where = request.node.callspec.params["url"]
    report("races", f"publishers, readers, collectors, {where}", **counts)


def do(act, url, directory, until, which):
    act(open_registry(url), directory, until, which)


def publish_until(registry, directory, until, first):
    """Publish; before that leave the version's files behind without it, as a conflict does."""
    seed = first
    while time.time() < until:
        package = make_adapter(directory / str(seed), seed=seed)
        with pytest.raises(Conflict):
            registry.publish(NAME, package, number=1)
        version = registry.publish(NAME, package)
        if seed % 5 == 0:
            promote(registry, version)
        seed += 1
    count(directory, "published", first, seed - first)


def promote(registry, version):
    try:
        registry.promote(AdapterRef(NAME, number=version.number), "canary")
    except Conflict:
        return  # somebody else was quicker


def read_until(registry, directory, until, which):
    """Lease a version, and read every byte of it while the lease lasts."""
    choose, read = random.Random(which), 0
    while time.time() < until:
        newest = registry.resolve(AdapterRef(NAME, alias="latest")).number
        version = registry.resolve(AdapterRef(NAME, number=choose.randint(1, newest)))
        registry.lease(version, f"reader {which}", 60)
        checkout = registry.materialize(version)
        for _ in range(3):
            for file in version.manifest.files:
                data = (checkout / file.path).read_bytes()
                assert hashlib.sha256(data).hexdigest() == file.sha256
            time.sleep(0.002)
        registry.release(version, f"reader {which}")
        read += 1
    count(directory, "read", which, read)


def collect_until(registry, directory, until, which):
    """Collect without grace, over and over."""
    blobs = 0
    while time.time() < until:
        blobs += registry.gc(grace=0).blobs
    count(directory, "collected", which, blobs)


def count(directory, what, who, number):
    (directory / f"{what}-{who}").write_text(str(number))


def counted(directory: Path, what: str) -> int:
    return sum(int(path.read_text()) for path in directory.glob(f"{what}-*"))
