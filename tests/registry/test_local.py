"""What only the directory registry promises: atomic, durable, immutable, and quick to open."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from adaptery.errors import CorruptFile, ReferenceNotFound, RegistryError
from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.registry.sql.sqlite import SqliteDatabase
from adaptery.types import AdapterRef
from tests.adapters import make_adapter

# A forked process starts in milliseconds and is as dead as any after SIGKILL.
fork = multiprocessing.get_context("fork")
REF = AdapterRef.parse("support")


def root(local: LocalRegistry) -> Path:
    return Path(local.url)


def blob_of(local, version, path=WEIGHTS) -> Path:
    digest = next(file.sha256 for file in version.manifest.files if file.path == path)
    return root(local) / "blobs" / "sha256" / digest[:2] / digest


def overwrite(path: Path, at: int = -1) -> None:
    """Change a byte of a read-only file, keeping its size."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_reading_where_there_is_no_registry_creates_nothing(local):
    assert list(local.versions()) == list(local.aliases()) == []
    with pytest.raises(ReferenceNotFound):
        local.resolve(REF)
    with pytest.raises(ReferenceNotFound):
        local.promote(REF)
    assert not root(local).exists()


def test_a_reader_sees_a_registry_that_is_made_after_it_was_opened(local, adapter):
    reader = LocalRegistry.open(local.url)
    assert list(reader.versions()) == []
    version = local.publish("support", adapter(1))
    assert reader.resolve(REF) == version


def test_blobs_are_read_only_and_checkouts_are_links_to_them(local, adapter):
    version = local.publish("support", adapter(1))
    blob = blob_of(local, version)
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert (local.materialize(version) / WEIGHTS).samefile(blob)
    assert local.materialize(version).name == version.digest


def test_nothing_unfinished_stays_behind(local, adapter):
    version = local.publish("support", adapter(1))
    local.materialize(version)
    assert list((root(local) / "tmp").iterdir()) == []
    names = {path.name.removesuffix("-wal").removesuffix("-shm") for path in root(local).iterdir()}
    assert names == {"catalogue.sqlite3", "blobs", "checkouts", "tmp"}


def test_a_corrupt_blob_is_refused_and_its_digest_named(local, adapter):
    version = local.publish("support", adapter(1))
    local.materialize(version)
    blob = blob_of(local, version)
    overwrite(blob)
    with pytest.raises(CorruptFile, match=f"expected sha256:{blob.name}"):
        local.materialize(version)
    with pytest.raises(CorruptFile, match=WEIGHTS):
        LocalRegistry.open(local.url).materialize(version)


def test_a_missing_blob_is_refused(local, adapter):
    version = local.publish("support", adapter(1))
    blob_of(local, version).unlink()
    with pytest.raises(CorruptFile, match=f"holds {WEIGHTS}, is gone"):
        local.materialize(version)


def test_publishing_again_mends_a_corrupt_blob(local, adapter):
    version = local.publish("support", adapter(1))
    local.materialize(version)
    overwrite(blob_of(local, version))
    assert local.publish("support", adapter(1)) == version
    local.materialize(version)


def test_a_checkout_that_was_tampered_with_is_made_anew(local, adapter):
    version = local.publish("support", adapter(1))
    directory = local.materialize(version)
    (directory / WEIGHTS).unlink()
    (directory / "extra").write_text("x")
    again = local.materialize(version)
    assert {file.name for file in again.iterdir()} == {f.path for f in version.manifest.files}


def test_a_manifest_that_was_changed_in_the_catalogue_is_refused(local, adapter):
    local.publish("support", adapter(1))
    with sqlite3.connect(root(local) / "catalogue.sqlite3") as connection:
        connection.execute("DROP TRIGGER versions_refuse_update")
        connection.execute("UPDATE versions SET manifest = replace(manifest, 'lora', 'dora')")
    reader = LocalRegistry.open(local.url)
    with pytest.raises(CorruptFile, match="The manifest of support@1 does not have the digest"):
        reader.resolve(REF)
    with pytest.raises(CorruptFile):
        reader.versions()


@pytest.mark.parametrize("table", ["versions", "events"])
@pytest.mark.parametrize("deed", ["DELETE FROM {}", "UPDATE {} SET number = 9"])
def test_the_catalogue_itself_refuses_to_rewrite_history(local, adapter, table, deed):
    local.publish("support", adapter(1))
    with (
        sqlite3.connect(root(local) / "catalogue.sqlite3") as connection,
        pytest.raises(sqlite3.IntegrityError, match=f"{table} are never changed or removed"),
    ):
        connection.execute(deed.format(table))


def test_the_catalogue_is_durable_and_concurrent(local, adapter):
    local.publish("support", adapter(1))
    database = SqliteDatabase(root(local) / "catalogue.sqlite3")
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_opening_an_up_to_date_catalogue_does_not_import_alembic(local, adapter):
    local.publish("support", adapter(1))
    program = (
        "import sys; from adaptery.registry.local import LocalRegistry; "
        "from adaptery.types import AdapterRef; "
        "print(LocalRegistry.open(sys.argv[1]).resolve(AdapterRef.parse('support'))); "
        "assert 'alembic' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, local.url], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("support@1\n", 0), done.stderr


def test_a_file_that_is_no_catalogue_is_refused_in_a_sentence(local):
    root(local).mkdir()
    (root(local) / "catalogue.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RegistryError, match="file is not a database"):
        local.versions()


def test_an_empty_file_is_no_catalogue(local, adapter):
    root(local).mkdir()
    (root(local) / "catalogue.sqlite3").touch()
    for deed in (local.versions, local.migrate, local.init):
        with pytest.raises(RegistryError, match=r"is an empty database and no catalogue\."):
            deed()


def test_a_registry_that_cannot_be_made_is_refused_in_a_sentence(tmp_path, adapter):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match=r"cannot be used: .*Not a directory"):
        LocalRegistry.open(str(tmp_path / "file")).publish("support", adapter(1))


def publish_some(url: str, directory: Path, first: int, count: int) -> None:
    registry = LocalRegistry.open(url)
    for seed in range(first, first + count):
        registry.publish("support", make_adapter(directory / str(seed), seed=seed))


def test_concurrent_publishers_get_contiguous_numbers_and_lose_nothing(local, tmp_path):
    writers = [
        fork.Process(target=publish_some, args=(local.url, tmp_path / "made", 100 * i, 5))
        for i in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    versions = local.versions("support")
    assert [version.number for version in versions] == list(range(1, 21))
    seeds = {version.manifest.seed for version in versions}
    assert seeds == {100 * i + j for i in range(4) for j in range(5)}
    assert len(local.history("support")) == 20
    assert local.resolve(REF).number == 1
    for version in versions:
        local.materialize(version)


STEPS = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def publish_and_die(url: str, directory: Path, step: int) -> None:
    """Publish, and be killed at a step: before a file operation, a statement or a commit."""
    registry, package = LocalRegistry.open(url), make_adapter(directory, seed=2)
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    sys.addaudithook(lambda name, _: count() if name in STEPS else None)
    registry.publish("support", package)


@pytest.mark.parametrize("empty", [True, False], ids=["first", "second"])
def test_a_killed_publish_leaves_the_whole_version_or_none(local, adapter, tmp_path, empty):
    if not empty:
        local.publish("support", adapter(1))
    before, outcomes, step, exitcode = len(local.versions()), [], 1, -signal.SIGKILL
    while exitcode == -signal.SIGKILL:
        copy = tmp_path / f"copy-{step}"
        if not empty:
            shutil.copytree(root(local), copy)
        child = fork.Process(target=publish_and_die, args=(str(copy), tmp_path / "made", step))
        child.start()
        child.join()
        exitcode = child.exitcode
        outcomes.append(assert_whole(copy, before, tmp_path))
        step += 3
    assert exitcode == 0
    # Killed early there is no version, killed late there is; never anything between.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {before, before + 1}
    assert outcomes.count(before) > 5


def assert_whole(copy: Path, before: int, tmp_path: Path) -> int:
    """Everything listed can be read, and the publish can be repeated. Returns what was listed."""
    registry = LocalRegistry.open(str(copy))
    versions = registry.versions()
    for version in versions:
        registry.materialize(version)
    if versions:
        assert len(registry.history("support")) == len(versions)
        assert registry.resolve(REF).number == 1
    again = registry.publish("support", make_adapter(tmp_path / "made", seed=2))
    assert again.number == before + 1
    registry.materialize(again)
    return len(versions)
