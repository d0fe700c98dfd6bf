"""Flipped bits: each is found, none is served, and the catalogue never lies about what it lost."""

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from adaptery.errors import AdapteryError, CorruptFile
from adaptery.registry.gate.package import CONFIG, TEMPLATE, WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.adapters import make_adapter, package
from tests.torture.arena import State

REF = AdapterRef.parse("support@1")
CATALOGUE = "catalogue.sqlite3"
SHORT = 40  # bits of each kind in `make test`


@pytest.fixture
def local(tmp_path):
    """A registry with two versions that have every kind of file; their weights are 64 kB."""
    local = LocalRegistry.open(str(tmp_path / "registry"))
    for seed in (1, 2):
        directory = tmp_path / f"made-{seed}"
        make_adapter(directory, seed=seed, r=8, width=512)
        (directory / TEMPLATE).write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        local.publish("support", package(directory, seed=seed, metrics={"loss": 1.0 / seed}))
    local.promote(AdapterRef.parse("support@2"), reason="better")
    local.tag(REF, {"stage": "old"})
    local.note(REF, "The first one.")
    local.yank(REF, "It was worse.")
    return local


def one_in_each_byte(size: int) -> list[int]:
    chosen = random.Random(size)
    return [8 * byte + chosen.randrange(8) for byte in range(size)]


def anywhere(size: int, count: int) -> list[int]:
    return sorted(random.Random(size).sample(range(8 * size), count))


def some(bits: list[int], exhaustive: bool) -> list[int]:
    return bits if exhaustive else bits[:: max(1, len(bits) // SHORT)]


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """One bit of the file differs meanwhile; its inode, size and modification time do not."""
    good = path.read_bytes()
    overwrite(path, flip(good, bit))
    yield
    overwrite(path, good)


def overwrite(path: Path, data: bytes) -> None:
    times = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("file", [CONFIG, TEMPLATE, WEIGHTS])
def test_a_flipped_bit_of_a_file_is_found_and_refused(local, file, exhaustive, report):
    version = local.resolve(REF)
    entry = next(entry for entry in version.manifest.files if entry.path == file)
    blob = local.materialize(version) / file
    bits = anywhere(entry.size, 2000) if file == WEIGHTS else one_in_each_byte(entry.size)
    tried = some(bits, exhaustive)
    for bit in tried:
        with flipped(blob, bit):
            # Whoever has just read the file and found it good, and whoever has not.
            for registry in (local, LocalRegistry.open(local.url)):
                with pytest.raises(CorruptFile, match=f"expected sha256:{entry.sha256}"):
                    registry.materialize(version)
            assert entry.sha256 in " ".join(map(str, local.verify([REF]))), bit
        assert local.materialize(version) == blob.parent
    report("bits", file, flipped=len(tried))


def test_a_flipped_bit_of_a_manifest_is_found_and_refused(local, exhaustive, report):
    good = local.resolve(REF).manifest.canonical()
    tried = some(one_in_each_byte(len(good)), exhaustive)
    with closing(sqlite3.connect(Path(local.url) / CATALOGUE, isolation_level=None)) as catalogue:
        for (trigger,) in catalogue.execute("SELECT name FROM sqlite_master WHERE type='trigger'"):
            catalogue.execute(f"DROP TRIGGER {trigger}")
        for bit in tried:
            write_manifest(catalogue, flip(good, bit))
            assert local.verify([REF]) != [], bit
            assert local.fsck() != [], bit
            with pytest.raises(AdapteryError):
                LocalRegistry.open(local.url).resolve(REF)
        write_manifest(catalogue, good)
    assert local.verify([REF]) == []
    report("bits", "manifest", flipped=len(tried))


def write_manifest(catalogue: sqlite3.Connection, manifest: bytes) -> None:
    row = "UPDATE versions SET manifest = CAST(? AS TEXT) WHERE number = 1"
    catalogue.execute(row, (manifest,))


def test_a_flipped_bit_of_the_catalogue_is_found_or_changes_nothing(
    local, tmp_path, exhaustive, report
):
    before = everything(local)
    good = catalogue_file(local)
    tried = anywhere(len(good), 3000 if exhaustive else SHORT)
    found = 0
    for bit in tried:
        registry = copy_with_catalogue(local, tmp_path / "copy", flip(good, bit))
        try:
            after = everything(registry)
        except AdapteryError:
            after = None
        findings = registry.fsck()
        assert findings or after == before, f"bit {bit} changes what is read, and fsck is silent"
        found += bool(findings)
    assert found > 0
    report("bits", CATALOGUE, flipped=len(tried), found=found, harmless=len(tried) - found)


def everything(registry: LocalRegistry) -> tuple[object, ...]:
    """All that anybody can read, each through the calls that people use."""
    manifests = [
        (registry.resolve(ref), registry.materialize(registry.resolve(ref)).name)
        for ref in (AdapterRef.parse("support"), REF, AdapterRef.parse("support@latest"))
    ]
    return (
        State.of(registry),
        manifests,
        registry.standing("support"),
        [version.manifest for version in registry.versions()],
        list(registry.newest()),
    )


def catalogue_file(local: LocalRegistry) -> bytes:
    """The catalogue with SQLite's log merged into it."""
    path = Path(local.url) / CATALOGUE
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    return path.read_bytes()


def copy_with_catalogue(local: LocalRegistry, copy: Path, catalogue: bytes) -> LocalRegistry:
    """The registry with another catalogue; the other files are the same ones."""
    shutil.rmtree(copy, ignore_errors=True)
    others = shutil.ignore_patterns(f"{CATALOGUE}*")
    shutil.copytree(local.url, copy, copy_function=os.link, ignore=others)
    (copy / CATALOGUE).write_bytes(catalogue)
    return LocalRegistry.open(str(copy))
