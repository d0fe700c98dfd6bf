"""A catalogue of the first release becomes one of ours, with a backup and nothing lost.

The old catalogue is a real one: the first migration makes its tables, and rows are written as the
first release wrote them.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, Table, create_engine, inspect, select, text

from adaptery.errors import RegistryError
from adaptery.registry.local import LocalRegistry
from adaptery.registry.sql import schema
from adaptery.registry.sql.revisions import upgrade
from adaptery.registry.sql.sqlite import SqliteDatabase
from adaptery.registry.team import TeamRegistry
from adaptery.types import AdapterRef, Alias, EventKind

LIVE = AdapterRef.parse("support")
START = datetime(2026, 11, 20, 12, 0, 0, 250000, tzinfo=UTC)
# kind, number, alias, previous, generation, reason
STORY = [
    ("published", 1, "live", None, 1, ""),
    ("published", 2, None, None, None, "more data"),
    ("promoted", 2, "live", 1, 2, "better F1"),
    ("rolled back", 1, "live", 2, 3, "it swears: “…”"),
]


@pytest.fixture(params=["local", "team"])
def unmade(request, tmp_path):
    """Opens this test's registry, in which nobody has made anything yet."""
    if request.param == "local":
        return lambda: LocalRegistry.open(str(tmp_path / "registry"))
    url = request.getfixturevalue("team_url")
    return lambda: TeamRegistry.open(url)


@pytest.fixture
def packages(adapter):
    return [adapter(1, metrics={"f1": 0.1 + 0.2}), adapter(2)]


@pytest.fixture
def old(unmade, packages, tmp_path):
    """The same, with a catalogue of the first release in it: two versions and their story."""
    registry = unmade()
    (tmp_path / "registry").mkdir()
    database = database_of(registry, tmp_path)
    with database._begin() as connection:
        upgrade(connection, "0001")
        write(connection, packages)
    database.close()
    for package in packages:
        registry._keep(package, package.manifest.files)
    return unmade


def database_of(registry, tmp_path):
    if isinstance(registry, LocalRegistry):
        return SqliteDatabase(tmp_path / "registry" / "catalogue.sqlite3")
    return registry._postgres


def write(connection, packages):
    for number, package in enumerate(packages, 1):
        manifest = package.manifest
        row = {
            "n": number,
            "digest": manifest.digest,
            "manifest": manifest.canonical().decode(),
            "at": at(number - 1).isoformat(),
        }
        connection.execute(
            text("INSERT INTO versions VALUES ('support', :n, :digest, :manifest, :at, 'ada')"), row
        )
        for file in manifest.files:
            blob = {"n": number, "sha256": file.sha256}
            connection.execute(
                text("INSERT INTO version_blobs VALUES ('support', :n, :sha256)"), blob
            )
    connection.execute(text("INSERT INTO aliases VALUES ('support', 'live', 1, 3)"))
    for place, (kind, number, alias, previous, generation, reason) in enumerate(STORY):
        values = {
            **{"kind": kind, "n": number, "alias": alias, "previous": previous},
            **{"generation": generation, "at": at(place).isoformat(), "reason": reason},
        }
        connection.execute(
            text(
                "INSERT INTO events (adapter, kind, number, alias, previous, generation, actor, "
                "at, reason) VALUES ('support', :kind, :n, :alias, :previous, :generation, 'ada', "
                ":at, :reason)"
            ),
            values,
        )


def at(place):
    return START + timedelta(minutes=place)


def test_an_older_catalogue_is_not_touched_until_it_is_migrated(old):
    registry = old()
    for deed in (registry.versions, registry.init, registry.gc, lambda: registry.resolve(LIVE)):
        with pytest.raises(RegistryError, match=r"older adaptery .*`adapters registry migrate`"):
            deed()
    assert registry._database().revision() == "0001"


def test_migrating_keeps_everything(old, packages):
    registry = old()
    assert registry.migrate()
    versions = registry.versions()
    assert [version.manifest for version in versions] == [p.manifest for p in packages]
    assert [version.digest for version in versions] == [p.manifest.digest for p in packages]
    assert [(v.number, v.created_at, v.created_by) for v in versions] == [
        (1, at(0), "ada"),
        (2, at(1), "ada"),
    ]
    assert list(registry.aliases()) == [Alias("support", "live", 1, 3)]
    history = registry.history("support")
    assert [(e.id, e.actor, e.at) for e in history] == [
        (place + 1, "ada", at(place)) for place in range(4)
    ]
    told = [(e.kind, e.number, e.alias, e.previous, e.generation, e.reason) for e in history]
    assert told == [(EventKind(kind), *rest) for kind, *rest in STORY]


def test_what_is_migrated_is_whole_and_goes_on(old, adapter):
    registry = old()
    registry.migrate()
    assert list(registry.fsck()) == []
    assert registry.publish("support", adapter(3)).number == 3
    assert registry.promote(AdapterRef.parse("support@3"), expect=1).generation == 4
    assert registry.rollback("support").number == 1
    assert registry.newest()[0].versions == 3
    assert list(registry.fsck()) == []


def test_migrating_again_changes_nothing(old):
    assert old().migrate()
    assert old().migrate() is None


def test_a_registry_that_is_not_there_cannot_be_migrated(unmade):
    with pytest.raises(RegistryError, match="`adapters registry init` makes one"):
        unmade().migrate()


def test_the_backup_is_the_catalogue_as_it_was(old):
    registry = old()
    tables = backup_of(registry, registry.migrate())
    assert tables.pop("alembic_version") == [("0001",)]
    counts = {table: len(rows) for table, rows in tables.items()}
    assert counts == {"versions": 2, "version_blobs": 4, "aliases": 1, "events": 4}
    assert len(tables["versions"][0]) == 6  # the columns of the first release


def backup_of(registry, place):
    """Every table of a backup and its rows, without SQLite's own."""
    if isinstance(registry, LocalRegistry):
        assert Path(place).parent == Path(registry.url) / "backups"
        with create_engine(f"sqlite:///{place}").connect() as connection:
            return rows_of(connection, None)
    with registry._postgres.read() as connection:
        return rows_of(connection, place.split()[2])


def rows_of(connection, schema):
    return {
        name: [tuple(row) for row in connection.execute(select(text("*")).select_from(table))]
        for name in inspect(connection).get_table_names(schema)
        for table in [Table(name, MetaData(), schema=schema)]
    }


def test_what_cannot_be_migrated_is_left_as_it_was(unmade, tmp_path):
    registry = unmade()
    (tmp_path / "registry").mkdir()
    database = database_of(registry, tmp_path)
    with database._begin() as connection:
        upgrade(connection, "0001")
        connection.execute(
            text("INSERT INTO versions VALUES ('support', 1, 'd', '{not json', 'at', 'ada')")
        )
    with pytest.raises(RegistryError, match=r"cannot be migrated .* nothing was changed"):
        registry.migrate()
    assert database.revision() == "0001"
    with database.read() as connection:
        assert len(connection.exec_driver_sql("SELECT * FROM versions").one()) == 6


def test_many_who_migrate_at_once_migrate_it_once(old):
    registries, barrier = [old() for _ in range(4)], Barrier(4)

    def migrate(registry):
        barrier.wait()
        return registry.migrate()

    with ThreadPoolExecutor(4) as pool:
        backups = list(pool.map(migrate, registries))
    assert sum(backup is not None for backup in backups) == 1
    assert [len(registry.versions()) for registry in registries] == [2] * 4


def test_many_who_make_it_at_once_make_it_once(unmade):
    registries, barrier = [unmade() for _ in range(4)], Barrier(4)

    def make(registry):
        barrier.wait()
        return registry.init()

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, registries))
    assert sum(made) == 1
    assert unmade().init() is False


def test_a_newer_catalogue_is_refused_by_everything(unmade, tmp_path):
    registry = unmade()
    registry.init()
    with registry._database()._begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for deed in (unmade().versions, unmade().migrate):
        with pytest.raises(RegistryError, match=r"newer adaptery, .*'9999'"):
            deed()


def test_a_process_that_has_it_open_while_it_is_migrated_stops_writing(unmade, adapter):
    registry = unmade()
    registry.publish("support", adapter(1))
    with registry._database()._begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RegistryError, match="newer adaptery"):
        registry.publish("support", adapter(2))
    assert len(registry.versions()) == 1


def test_the_migrations_make_the_tables_that_the_code_uses(unmade):
    registry = unmade()
    registry.init()
    with registry._database().read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    assert registry._database().revision() == schema.HEAD
