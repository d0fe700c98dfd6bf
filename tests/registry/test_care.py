"""fsck, verify and gc of a directory: what is damaged is found, what is needed is never taken."""

import os
import sqlite3
import time
from pathlib import Path

import pytest

from adaptery.errors import CorruptFile, ReferenceNotFound
from adaptery.registry.gate.package import CONFIG, WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef

LONG_AGO = time.time() - 90_000


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def lived(local, adapter):
    """A directory in which everything has happened that can happen to an adapter."""
    for seed in range(1, 5):
        local.publish("support", adapter(seed, metrics={"f1": seed / 10}))
    local.promote(ref("support@3"))
    local.promote(ref("support@4"), "canary")
    local.rollback("support")
    local.yank(ref("support@2"), "It leaks names.")
    local.yank(ref("support@3"), "So does this.")
    local.unyank(ref("support@3"), "It does not.")
    local.tag(ref("support@3"), {"team": "search", "stage": "trial"})
    local.note(ref("support@3"), "Trained on the cleaned data.")
    return local


def root(local) -> Path:
    return Path(local.url)


def blob(local, number, path=WEIGHTS) -> Path:
    version = local.resolve(ref(f"support@{number}"))
    digest = next(file.sha256 for file in version.manifest.files if file.path == path)
    return root(local) / "blobs" / "sha256" / digest[:2] / digest


def damage(path, at=-1):
    """Change one bit, keeping size and times."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rewrite(local, *statements):
    """Change the catalogue behind the registry's back, its triggers out of the way."""
    with sqlite3.connect(root(local) / "catalogue.sqlite3") as connection:
        for table in ("versions", "events"):
            for deed in ("update", "delete"):
                connection.execute(f"DROP TRIGGER IF EXISTS {table}_refuse_{deed}")
        for statement in statements:
            connection.execute(statement)


def test_nothing_is_wrong_with_a_registry_that_has_lived(lived):
    assert lived.fsck() == []
    assert lived.verify() == []
    assert lived.fsck(repair=True) == []


def test_verify_reads_the_bytes_again_however_well_it_knew_them(lived):
    lived.materialize(lived.resolve(ref("support@3")))
    assert lived.verify([ref("support@3")]) == []
    damage(blob(lived, 3))
    (found,) = lived.verify([ref("support@3")])
    assert found.subject == f"support@3: {WEIGHTS}"
    assert f"expected sha256:{blob(lived, 3).name}" in found.problem
    assert lived.verify([ref("support@1")]) == []
    assert [finding.subject for finding in lived.verify()] == [f"support@3: {WEIGHTS}"]
    with pytest.raises(CorruptFile):
        lived.materialize(lived.resolve(ref("support@3")))


def test_verify_names_what_is_gone(lived):
    blob(lived, 3).unlink()
    (found,) = lived.verify([ref("support@3")])
    assert "is gone" in found.problem
    with pytest.raises(ReferenceNotFound):
        lived.verify([ref("support@9")])


def test_a_file_that_two_versions_share_is_missed_in_both(lived):
    damage(blob(lived, 1, CONFIG))
    subjects = {finding.subject for finding in lived.verify()}
    assert subjects == {f"support@{number}: {CONFIG}" for number in range(1, 5)}


def test_repair_sets_damage_aside_and_publishing_again_brings_the_bytes_back(lived, adapter):
    version = lived.resolve(ref("support@4"))
    checkout = lived.materialize(version)
    damage(blob(lived, 4))
    (found,) = lived.fsck(repair=True)
    assert "quarantine" in found.repaired
    assert not checkout.exists()
    assert (root(lived) / "quarantine" / blob(lived, 4).name).exists()
    assert "is gone" in lived.fsck()[0].problem
    assert lived.publish("support", adapter(4, metrics={"f1": 0.4})) == version
    assert lived.fsck() == []
    lived.materialize(version)


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        ("UPDATE events SET reason = 'x' WHERE sequence = 5", "the history of support"),
        ("UPDATE events SET actor = 'x' WHERE sequence = 1", "the history of support"),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00'", "the history of support"),
        ("UPDATE events SET at = 'noon' WHERE sequence = 2", "the history of support"),
        ("UPDATE events SET kind = 'sold' WHERE sequence = 2", "the history of support"),
        ("UPDATE events SET data = '{' WHERE sequence = 2", "the history of support"),
        ("UPDATE events SET chain = 'x' WHERE sequence = 12", "the history of support"),
        ("DELETE FROM events WHERE sequence = 7", "the history of support"),
        ("UPDATE versions SET created_by = 'x' WHERE number = 2", "support@2"),
        ("UPDATE versions SET method = 'dora' WHERE number = 2", "support@2"),
        ("UPDATE versions SET size = 1 WHERE number = 2", "support@2"),
        ("UPDATE versions SET digest = 'x' WHERE number = 2", "support@2"),
        ("UPDATE versions SET manifest = '{}' WHERE number = 2", "support@2"),
        ("DELETE FROM versions WHERE number = 2", "support@2"),
    ],
)
def test_a_changed_version_or_event_is_found_and_never_explained_away(lived, statement, subject):
    rewrite(lived, statement)
    found = LocalRegistry.open(lived.url).fsck(repair=True)
    assert subject in {finding.subject for finding in found}
    assert all(not finding.repaired for finding in found if finding.subject == subject)


def test_two_versions_that_changed_places_are_found_and_not_handed_out(lived):
    rewrite(
        lived,
        "CREATE TEMP TABLE two AS SELECT number, digest, manifest FROM versions WHERE number < 3",
        "UPDATE versions SET digest = 'x' WHERE number = 1",
        "UPDATE versions SET (digest, manifest) = "
        "(SELECT digest, manifest FROM two WHERE number = 1) WHERE number = 2",
        "UPDATE versions SET (digest, manifest) = "
        "(SELECT digest, manifest FROM two WHERE number = 2) WHERE number = 1",
    )
    registry = LocalRegistry.open(lived.url)
    assert {"support@1", "support@2"} <= {finding.subject for finding in registry.fsck(repair=True)}
    for number in (1, 2):
        with pytest.raises(CorruptFile, match=f"The manifest of support@{number}"):
            registry.resolve(ref(f"support@{number}"))


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        ("UPDATE aliases SET number = 4 WHERE name = 'live'", "aliases"),
        ("DELETE FROM aliases", "aliases"),
        ("INSERT INTO aliases VALUES ('support', 'ghost', 1, 1)", "aliases"),
        ("DELETE FROM yanks", "yanks"),
        ("INSERT INTO yanks VALUES ('support', 4)", "yanks"),
        ("DELETE FROM version_blobs WHERE number = 2", "references to blobs"),
        ("UPDATE metrics SET value = 1 WHERE number = 2", "metrics"),
        ("UPDATE adapters SET events = 3", "count of events"),
    ],
)
def test_what_only_repeats_the_history_is_found_and_rebuilt(lived, statement, subject):
    before = lived.aliases(), lived.standing("support"), lived.resolve(ref("support@latest"))
    rewrite(lived, statement)
    registry = LocalRegistry.open(lived.url)
    (found,) = registry.fsck()
    assert (found.subject, found.repaired) == (f"the {subject} of support", None)
    (found,) = registry.fsck(repair=True)
    assert found.repaired == "It was rebuilt from the history."
    assert registry.fsck() == []
    assert before == (
        registry.aliases(),
        registry.standing("support"),
        registry.resolve(ref("support@latest")),
    )


def orphan(local, modified=LONG_AGO) -> Path:
    """A blob of a publish that never came to be."""
    path = root(local) / "blobs" / "sha256" / "ab" / ("ab" * 32)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"0123456789")
    os.utime(path, (modified, modified))
    return path


def age(path):
    os.utime(path, (LONG_AGO, LONG_AGO))
    for entry in path.rglob("*"):
        os.utime(entry, (LONG_AGO, LONG_AGO))


def test_collection_takes_what_no_version_has_and_nothing_else(lived):
    path = orphan(lived)
    for entry in (root(lived) / "blobs").rglob("*"):
        os.utime(entry, (LONG_AGO, LONG_AGO))
    assert lived.gc(dry_run=True).blobs == 1
    assert path.exists()
    swept = lived.gc()
    assert (swept.blobs, swept.bytes) == (1, 10)
    assert not path.exists()
    assert lived.fsck() == []
    assert lived.gc().blobs == 0


def test_collection_spares_what_is_young(lived):
    path = orphan(lived, time.time() - 60)
    assert lived.gc().blobs == 0
    assert path.exists()
    assert lived.gc(grace=30).blobs == 1


def test_collection_sweeps_what_died_processes_left(lived):
    dead, alive = root(lived) / "tmp" / "dead", root(lived) / "tmp" / "alive"
    for directory in (dead, alive):
        (directory / "deep").mkdir(parents=True)
        (directory / "deep" / "file").write_bytes(b"half")
    age(dead)
    swept = lived.gc(grace=0)
    assert (swept.unfinished, swept.bytes) == (1, 4)
    assert not dead.exists()
    assert alive.exists()  # Younger than an hour: somebody may be writing it.


def test_a_leased_checkout_stays_and_the_others_go(lived):
    versions = [lived.resolve(ref(f"support@{number}")) for number in (1, 3, 4)]
    directories = [lived.materialize(version) for version in versions]
    lived.lease(versions[0], "a server", 60)
    lived.lease(versions[1], "a dead server", 0)
    swept = lived.gc(grace=0)
    assert (swept.checkouts, swept.leased) == (2, 1)
    assert [directory.exists() for directory in directories] == [True, False, False]
    lived.release(versions[0], "a server")
    assert lived.gc(grace=0).checkouts == 1
    for version, directory in zip(versions, directories, strict=True):
        assert lived.materialize(version) == directory
    assert lived.fsck() == []


def test_a_checkout_that_is_used_again_is_young_again(lived):
    version = lived.resolve(ref("support"))
    age(lived.materialize(version))
    assert lived.gc(dry_run=True).checkouts == 1
    lived.materialize(version)
    assert lived.gc().checkouts == 0


def test_care_of_a_registry_that_is_not_there_finds_nothing_and_makes_nothing(tmp_path):
    nowhere = LocalRegistry.open(str(tmp_path / "nowhere"))
    assert list(nowhere.fsck(repair=True)) == list(nowhere.verify()) == []
    assert nowhere.gc(grace=0).bytes == 0
    assert not (tmp_path / "nowhere").exists()
