"""What every test runs in: few threads, no setting of the developer's own, no Hub."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch or the Hub's client is imported, here or in a subprocess. Matrices are tiny and the
# machine is shared; nobody listens on port 9.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_ENDPOINT": "http://127.0.0.1:9",
}

import pytest

if TYPE_CHECKING:
    from tests.peers.postgres import PostgresPeer
    from tests.peers.s3 import S3Peer


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the developer's cache, and nothing found there."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ADAPTERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `ADAPTERS_…` variable of the shell that runs the tests."""
    for name in [name for name in os.environ if name.startswith("ADAPTERS_")]:
        if name != "ADAPTERS_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of 2 layers with a byte-level BPE tokenizer and the ChatML template."""
    from tests.models import write_tiny_base

    return write_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def postgres_peer() -> Iterator["PostgresPeer"]:
    from tests.peers.postgres import PostgresPeer

    with PostgresPeer() as peer:
        yield peer


@pytest.fixture(scope="session")
def s3_peer() -> Iterator["S3Peer"]:
    from tests.peers.s3 import S3Peer

    with S3Peer() as peer:
        yield peer


@pytest.fixture
def postgres(postgres_peer: "PostgresPeer") -> Iterator[str]:
    """The address of an empty PostgreSQL database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres_peer.create(name)
    postgres_peer.drop(name)


@pytest.fixture
def bucket(s3_peer: "S3Peer", monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty S3 bucket of this test's own, which libraries find."""
    for name, value in s3_peer.environment.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex}"
    s3_peer.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def team_url(postgres: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty team registry of this test's own, and a cache of it."""
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))
    return f"{postgres}?blobs=s3://{bucket}/adapters"
