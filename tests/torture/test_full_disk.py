"""A disk that is really full: nothing is lost, it is said, and it goes on once there is space."""

import re
import subprocess

import pytest

from adaptery.errors import RegistryError
from adaptery.registry.local import LocalRegistry
from tests.adapters import make_adapter


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_takes_no_more_and_loses_nothing(small_disk, tmp_path, report):
    filler, url = small_disk / "filler", str(small_disk / "registry")
    filler.write_bytes(b"x" * 300_000)
    packages = [make_adapter(tmp_path / str(seed), seed=seed, width=256) for seed in range(60)]
    published, refusal = publish_until_refused(url, packages)
    assert 1 < published < len(packages)
    assert re.search("No space left on device|disk is full", refusal)
    filler.unlink()
    registry = LocalRegistry.open(url)
    assert len(registry.versions("support")) == published
    assert list(registry.fsck()) == []
    assert registry.publish("support", packages[published]).number == published + 1
    report("faults", "a disk of 1 MB", published=published)


def publish_until_refused(url, packages):
    """How many were published, and what was said then."""
    for published, package in enumerate(packages):
        try:
            LocalRegistry.open(url).publish("support", package)
        except RegistryError as error:
            return published, str(error)
    raise AssertionError("a disk of 1 MB cannot hold them all")
