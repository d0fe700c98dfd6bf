"""What only the directory registry promises: atomic, durable, immutable, and quick to open."""

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from adaptery.errors import CorruptFile, InvalidName, ReferenceNotFound, RegistryError
from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.registry.sql.sqlite import SqliteDatabase
from adaptery.types import AdapterRef

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
    for url in ("", "file://", str(tmp_path / "file")):
        with pytest.raises(InvalidName, match="is no registry: give a directory"):
            LocalRegistry.open(url)
    with pytest.raises(RegistryError, match=r"cannot be used: .*Not a directory"):
        LocalRegistry.open(str(tmp_path / "file" / "below")).publish("support", adapter(1))
