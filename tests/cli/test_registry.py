"""`adapters registry init`, `info` and `migrate`."""

import re
import sqlite3
from pathlib import Path

import pytest

from adaptery.registry.local import LocalRegistry
from adaptery.registry.sql.revisions import upgrade
from adaptery.registry.sql.sqlite import SqliteDatabase
from adaptery.registry.team import TeamRegistry
from tests.adapters import make_adapter
from tests.command import adapters, done


def test_init_makes_a_registry_and_again_says_that_it_is_there(tmp_path: Path) -> None:
    at = ("--registry", tmp_path / "registry")
    assert done("registry", "init", *at).out == f"Made the registry {tmp_path}/registry.\n"
    assert (tmp_path / "registry" / "catalogue.sqlite3").is_file()
    assert "is there already; nothing was changed" in done("registry", "init", *at).out
    assert done("registry", "init", *at, "--json").json == {
        "url": f"{tmp_path}/registry",
        "made": False,
    }
    assert done("list", *at, "--json").json == []


def test_info_says_what_it_holds(tmp_path: Path) -> None:
    at = ("--registry", tmp_path / "registry")
    assert done("registry", "info", *at, "--json").json["revision"] is None
    assert not (tmp_path / "registry").exists()
    registry = LocalRegistry.open(str(tmp_path / "registry"))
    version = registry.publish("support", make_adapter(tmp_path / "made", seed=1))
    assert done("registry", "info", *at, "--json").json == {
        "url": str(tmp_path / "registry"),
        "backend": "a directory: SQLite and blobs",
        **{"adapters": 1, "versions": 1, "aliases": 1, "events": 1},
        **{"blobs": 2, "bytes": version.manifest.size, "revision": "0002"},
    }
    assert re.search(r"versions +1 *\n", done("registry", "info", *at).out)


def test_an_older_registry_is_migrated_when_told_to(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    at = ("--registry", root)
    root.mkdir()
    with SqliteDatabase(root / "catalogue.sqlite3")._begin() as connection:
        upgrade(connection, "0001")
    refused = adapters("list", *at)
    assert refused.code == 1
    assert "Run `adapters registry migrate`" in refused.err
    told = done("registry", "migrate", *at).out
    (backup,) = (root / "backups").iterdir()
    assert f"Migrated {root}. What it was before is kept in {backup}." in told
    with sqlite3.connect(backup) as kept:
        assert kept.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
    assert done("list", *at, "--json").json == []
    assert "is up to date; nothing was changed" in done("registry", "migrate", *at).out
    again = done("registry", "migrate", *at, "--json").json
    assert again == {"url": str(root), "migrated": False, "backup": None}


def test_the_whole_life_of_an_adapter_in_a_teams_registry(team_url: str, tmp_path: Path) -> None:
    at = ("--registry", team_url)
    assert done("registry", "init", *at).out.startswith("Made the registry postgresql://adaptery@")
    registry = TeamRegistry.open(team_url)
    first, second = (
        registry.publish("support", make_adapter(tmp_path / str(seed), seed=seed))
        for seed in (1, 2)
    )
    assert "support@2" in done("promote", "support@2", *at).out
    assert "support@1" in done("rollback", "support", *at).out
    assert done("verify", "--all", *at).out == "Every byte has its digest.\n"
    shown = done("show", "support", *at, "--json").json
    assert shown["digest"] == f"sha256:{first.digest}"
    rows = done("list", "support", *at, "--json").json
    assert {row["digest"] for row in rows} == {f"sha256:{v.digest}" for v in (first, second)}
    assert len(done("history", "support", *at, "--json").json) == 4


@pytest.mark.parametrize("command", ["info", "init", "migrate"])
def test_a_server_that_is_not_there_is_a_sentence_without_the_password(command: str) -> None:
    url = "postgresql://ada:s3cret@127.0.0.1:1/db?blobs=/tmp"
    outcome = adapters("registry", command, "--registry", url)
    assert outcome.code == 1
    assert outcome.err.startswith("error: postgresql://ada@127.0.0.1:1/db cannot be reached: ")
    assert "s3cret" not in outcome.err
    assert "Traceback" not in outcome.err
