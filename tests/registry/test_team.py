"""What only a team's registry promises: many machines, a server that goes away, no secret shown."""

import hashlib
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from adaptery import open_registry
from adaptery.errors import (
    CorruptFile,
    InvalidName,
    ReferenceNotFound,
    RegistryError,
    RemoteError,
)
from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.registry.team import TeamRegistry
from adaptery.types import AdapterRef
from tests.peers.postgres import PASSWORD

REF = AdapterRef.parse("support")


@pytest.fixture
def team(team_url):
    return TeamRegistry.open(team_url)


@pytest.fixture
def elsewhere(team_url, tmp_path, monkeypatch):
    """Opens the same registry on another machine: one with an empty cache."""

    def open_it():
        with monkeypatch.context() as machine:
            machine.setenv("ADAPTERS_CACHE", str(tmp_path / "elsewhere"))
            return TeamRegistry.open(team_url)

    return open_it


@pytest.fixture
def stored(s3_peer, bucket):
    """The objects in the bucket: key → bytes."""

    def read():
        found = s3_peer.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {
            entry["Key"]: s3_peer.client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            for entry in found
        }

    return read


@pytest.fixture
def rot(s3_peer, bucket):
    """Flips a bit of the version's weights where they are kept. Returns their digest."""

    def flip(version):
        digest = next(f.sha256 for f in version.manifest.files if f.path == WEIGHTS)
        key = f"adapters/sha256/{digest[:2]}/{digest}"
        data = bytearray(s3_peer.client.get_object(Bucket=bucket, Key=key)["Body"].read())
        data[-1] ^= 1
        s3_peer.client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
        return digest

    return flip


def test_files_are_kept_under_their_digests(team, adapter, stored):
    package = adapter(1)
    team.publish("support", package)
    wanted = {
        f"adapters/sha256/{file.sha256[:2]}/{file.sha256}": (
            package.directory / file.path
        ).read_bytes()
        for file in package.manifest.files
    }
    assert stored() == wanted


def test_another_machine_reads_what_was_published(team, elsewhere, adapter):
    package = adapter(1)
    version = team.publish("support", package)
    other = elsewhere()
    assert other.resolve(REF) == version
    directory = other.materialize(version)
    assert not directory.is_relative_to(team.materialize(version).parents[1])
    for file in package.manifest.files:
        original = (package.directory / file.path).read_bytes()
        assert (directory / file.path).read_bytes() == original


def test_a_corrupt_object_is_refused_and_its_digest_named(team, elsewhere, adapter, rot):
    version = team.publish("support", adapter(1))
    digest = rot(version)
    other = elsewhere()
    with pytest.raises(CorruptFile, match=f"{WEIGHTS} in .*expected sha256:{digest}"):
        other.materialize(version)
    assert [finding.subject for finding in team.verify()] == [f"support@1: {WEIGHTS}"]


def test_publishing_again_mends_a_corrupt_object(team, elsewhere, adapter, rot):
    version = team.publish("support", adapter(1))
    rot(version)
    assert team.publish("support", adapter(1)) == version
    assert team.verify() == []
    elsewhere().materialize(version)


def test_repair_sets_a_corrupt_object_aside(team, elsewhere, adapter, rot, stored):
    version = team.publish("support", adapter(1))
    digest = rot(version)
    (finding,) = team.fsck(repair=True)
    assert f"/adapters/quarantine/{digest}" in finding.repaired
    assert f"adapters/quarantine/{digest}" in stored()
    with pytest.raises(CorruptFile, match=f"{digest} is gone"):
        elsewhere().materialize(version)
    team.publish("support", adapter(1))
    assert team.fsck() == []


def test_files_can_be_kept_in_a_directory_that_all_see(postgres, adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))
    team = TeamRegistry.open(f"{postgres}?blobs={tmp_path}/share")
    version = team.publish("support", adapter(1))
    blobs = [path.name for path in (tmp_path / "share" / "blobs").rglob("*") if path.is_file()]
    assert sorted(blobs) == sorted(file.sha256 for file in version.manifest.files)
    assert team.materialize(version).is_relative_to(tmp_path / "cache")
    assert {p.name for p in (tmp_path / "share").iterdir()} == {"blobs", "tmp"}
    assert team.fsck() == []


@pytest.mark.parametrize("kind", ["local", "team"])
def test_what_is_collected_while_it_is_published_is_kept_again(kind, request, tmp_path, adapter):
    if kind == "team":
        registry = request.getfixturevalue("team")
    else:
        registry = LocalRegistry.open(str(tmp_path / "registry"))
    registry.publish("support", adapter(1))
    package = adapter(2)
    digest = next(file.sha256 for file in package.manifest.files if file.path == WEIGHTS)
    publisher = threading.Thread(target=registry.publish, args=("support", package))
    # The publisher's files are there and its transaction waits; then collection takes a file.
    with registry._catalogue().collecting([digest]) as orphans:
        assert orphans == [digest]
        publisher.start()
        deadline = time.monotonic() + 20
        while not registry._blobs.exists(digest) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        registry._blobs.remove(digest)
    publisher.join()
    assert [version.number for version in registry.versions()] == [1, 2]
    assert registry.verify() == []


def test_a_lost_connection_is_made_again(team, adapter, postgres):
    team.publish("support", adapter(1))
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert team.resolve(REF).number == 1
    assert team.publish("support", adapter(2)).number == 2


@pytest.mark.parametrize("table", ["versions", "events"])
@pytest.mark.parametrize(
    "deed", ["DELETE FROM {}", "UPDATE {} SET number = 9", "TRUNCATE {} CASCADE"]
)
def test_the_catalogue_itself_refuses_to_rewrite_history(team, adapter, postgres, table, deed):
    team.publish("support", adapter(1))
    with (
        psycopg.connect(postgres) as connection,
        pytest.raises(psycopg.Error, match=r"(versions|events) are never changed or removed"),
    ):
        connection.execute(deed.format(table))


def test_what_only_repeats_the_history_is_found_wrong_and_rebuilt(team, adapter, postgres):
    for seed in (1, 2):
        team.publish("support", adapter(seed, metrics={"f1": seed / 7}))
    aliases = team.aliases()
    assert team.fsck() == []
    with psycopg.connect(postgres) as connection:
        connection.execute("UPDATE aliases SET number = 2, generation = 7")
        connection.execute("UPDATE metrics SET value = 0.5")
        connection.execute("DELETE FROM version_blobs")
    wrong = {finding.subject for finding in team.fsck()}
    assert wrong == {f"the {what} of support" for what in WRONG}
    assert all(finding.repaired for finding in team.fsck(repair=True))
    assert team.fsck() == []
    assert team.aliases() == aliases


WRONG = ("aliases", "metrics", "references to blobs")


def test_names_are_listed_by_their_bytes_whatever_the_servers_language(team, adapter):
    names = ["a-1", "a1", "a.b", "ab", "a_c"]
    for seed, name in enumerate(names):
        team.publish(name, adapter(seed))
    assert [version.name for version in team.versions()] == sorted(names)
    assert [row.newest.name for row in team.newest()] == sorted(names)


def test_reading_where_nobody_has_published_makes_nothing(team, postgres):
    assert list(team.versions()) == []
    with pytest.raises(ReferenceNotFound):
        team.resolve(REF)
    with psycopg.connect(postgres) as connection:
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert connection.execute(tables).fetchone() == (0,)


def test_a_registry_can_be_made_first_and_says_what_it_holds(team, adapter):
    assert team.info().revision is None
    assert team.init() is True
    assert team.init() is False
    version = team.publish("support", adapter(1))
    info = team.info()
    assert (info.adapters, info.versions, info.aliases, info.events) == (1, 1, 1, 1)
    assert (info.blobs, info.bytes) == (2, version.manifest.size)
    assert info.url == team.url


def test_no_password_is_shown_anywhere(team_url, postgres_peer):
    team = open_registry(team_url)
    secret = hashlib.sha256(PASSWORD.encode()).hexdigest()  # not to be found by chance
    wrong = open_registry(team_url.replace("s3cret%2Fpw", secret))
    with pytest.raises(RemoteError, match="password authentication failed") as refused:
        wrong.versions()
    for shown in (team.url, team.info().url, str(refused.value), wrong.url):
        assert secret not in shown
        assert "s3cret" not in shown
        assert f"postgresql://adaptery@127.0.0.1:{postgres_peer.port}/" in shown


def test_a_password_among_the_parameters_is_not_shown_either():
    url = "postgresql:///team?host=/run/sock&user=ada&password=s3cret&blobs=ftp://u:s3cret@h/x"
    with pytest.raises(RegistryError) as refused:
        TeamRegistry.open(url)
    assert "s3cret" not in str(refused.value)
    shown = TeamRegistry.open(url.replace("ftp://u:s3cret@h/x", "/srv/blobs")).url
    assert shown == "postgresql:///team?host=/run/sock&user=ada&blobs=/srv/blobs"


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("postgresql://host/db", InvalidName, r"does not say, once, where .* \?blobs="),
        ("postgresql://host/db?blobs=", InvalidName, "does not say, once"),
        ("postgresql://host/db?blobs=/a&blobs=/b", InvalidName, "does not say, once"),
        ("postgresql://host:port/db?blobs=/a", InvalidName, "no address of a PostgreSQL database"),
        ("postgres://host/db?blobs=memory://a", RegistryError, "memory://a forgets all"),
    ],
)
def test_an_address_that_means_nothing_is_refused(url, error, sentence):
    with pytest.raises(error, match=sentence):
        open_registry(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://ada:pw@127.0.0.1:1/db?blobs=/tmp", r"ada@127\.0\.0\.1:1/db cannot be reach"),
        ("postgresql:///db?host=/no/such/dir&blobs=/tmp", "cannot be reached"),
        ("postgresql://127.0.0.1:1/db?no_such=1&blobs=/tmp", "no_such"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(url, sentence):
    with pytest.raises(RegistryError, match=sentence):
        TeamRegistry.open(url).versions()


@pytest.mark.parametrize("library", ["psycopg", "s3fs"])
def test_without_its_libraries_the_extra_is_named(library):
    program = (
        f"import sys; sys.modules[{library!r}] = None; "
        "from adaptery.registry.team import TeamRegistry; "
        "TeamRegistry.open('postgresql://host/db?blobs=s3://bucket/x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "RegistryError: " in done.stderr
    assert "pip install 'adaptery[team]'" in done.stderr
