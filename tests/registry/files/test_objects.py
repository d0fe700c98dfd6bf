"""Every store of blobs does the same: in a directory, on S3, on another file system of fsspec."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from s3fs import S3FileSystem

from adaptery.errors import CorruptFile, RegistryError, RemoteError
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.files.objects import ObjectBlobs

STORES = ["directory", "s3", "fsspec"]


@pytest.fixture
def address(request, tmp_path):
    """Where the store is: a directory, an S3 prefix, or a file system that cannot create only."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    return f"file://{tmp_path}/store"


@pytest.fixture
def store(request, address, tmp_path):
    kind = request.node.callspec.params["address"]
    return BlobStore(tmp_path / "store") if kind == "directory" else ObjectBlobs(address)


@pytest.fixture
def source(tmp_path):
    """Makes a file and says its digest."""

    def make(data):
        digest = hashlib.sha256(data).hexdigest()
        path = tmp_path / f"source-{digest[:8]}"
        path.write_bytes(data)
        return path, digest

    return make


def damage(store, address, digest, data=b"rotten"):
    """Change the bytes behind the store's back."""
    if isinstance(store, BlobStore):
        store.path(digest).chmod(0o644)
        store.path(digest).write_bytes(data)
    else:
        fsspec.url_to_fs(address)[0].pipe_file(
            f"{address.partition('://')[2]}/sha256/{digest[:2]}/{digest}", data
        )


every_store = pytest.mark.parametrize("address", STORES, indirect=True)


@every_store
def test_what_is_added_is_there_under_its_digest(store, source, tmp_path):
    path, digest = source(b"some bytes")
    assert not store.exists(digest)
    assert store.rehash(digest) is None
    store.add(path, digest)
    assert store.exists(digest)
    assert store.rehash(digest) == digest
    (tmp_path / "fetched").mkdir()
    assert store.fetch(digest, tmp_path / "fetched").read_bytes() == b"some bytes"


@every_store
def test_every_blob_is_listed_with_its_size_and_time(store, source):
    assert list(store.stored()) == []
    digests = []
    for data in (b"a", b"bb", b""):
        path, digest = source(data)
        store.add(path, digest)
        digests.append(digest)
    found = list(store.stored())
    assert [blob.digest for blob in found] == sorted(digests)
    assert sorted(blob.size for blob in found) == [0, 1, 2]
    assert all(abs(blob.modified - time.time()) < 60 for blob in found)


@every_store
def test_bytes_of_another_digest_are_refused_and_nothing_is_kept(store, source):
    path, _ = source(b"some bytes")
    with pytest.raises(CorruptFile, match="my file does not have the digest"):
        store.add(path, "0" * 64, what="my file")
    assert list(store.stored()) == []


@every_store
def test_a_damaged_blob_is_known_and_replaced(store, address, source):
    path, digest = source(b"some bytes")
    store.add(path, digest)
    damage(store, address, digest)
    assert store.exists(digest)
    assert store.rehash(digest) == hashlib.sha256(b"rotten").hexdigest()
    store.add(path, digest)
    assert store.rehash(digest) == digest


@every_store
def test_a_damaged_blob_can_be_set_aside(store, address, source):
    path, digest = source(b"some bytes")
    store.add(path, digest)
    damage(store, address, digest)
    assert store.set_aside(digest).endswith(f"quarantine/{digest}")
    assert not store.exists(digest)
    assert list(store.stored()) == []


@every_store
def test_a_removed_blob_is_gone_and_can_be_removed_again(store, source, tmp_path):
    path, digest = source(b"some bytes")
    store.add(path, digest)
    for _ in range(2):
        store.remove(digest)
        assert not store.exists(digest)
    with pytest.raises(CorruptFile, match=f"{digest} is gone"):
        store.fetch(digest, tmp_path)
    store.add(path, digest)
    assert store.rehash(digest) == digest


@every_store
def test_many_who_add_one_blob_at_once_leave_one(store, source):
    path, digest = source(os.urandom(1 << 16))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.add(path, digest), range(8)))
    assert [blob.digest for blob in store.stored()] == [digest]
    assert store.rehash(digest) == digest


@pytest.mark.parametrize("address", ["fsspec"], indirect=True)
def test_no_unfinished_upload_is_ever_seen_under_its_key(store, source, tmp_path):
    for seed in range(3):
        store.add(*source(bytes([seed])))
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize("address", ["s3"], indirect=True)
def test_a_large_file_goes_up_in_parts_and_comes_down_whole(store, address, source, s3_peer):
    path, digest = source(os.urandom(1 << 20) * 20)
    store.add(path, digest)
    assert store.rehash(digest) == digest
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    found = s3_peer.client.head_object(Bucket=bucket, Key=f"{prefix}/sha256/{digest[:2]}/{digest}")
    assert found["ETag"].strip('"').endswith("-3")  # parts of 8 MiB


@pytest.mark.parametrize("address", ["s3"], indirect=True)
def test_the_store_itself_refuses_to_overwrite(store, source, s3_peer, address):
    """Somebody who adds the blob between our look and our upload is not overwritten."""
    path, digest = source(b"some bytes")
    store.add(path, digest)
    store._put(path, digest, replace=False)
    system, _ = fsspec.url_to_fs(address)
    with pytest.raises(FileExistsError):
        system.put_file(str(path), store._key(digest), mode="create")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to the endpoint"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "Unable to locate credential"),
    ],
    ids=["no server", "no credentials"],
)
def test_a_store_that_cannot_be_reached_says_why(bucket, source, monkeypatch, change, sentence):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()  # which fsspec keeps, whatever the environment says now
    store = ObjectBlobs(f"s3://{bucket}/x")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match=rf"s3://{bucket}/.* cannot be used: {sentence}"):
        store.exists("0" * 64)


def test_a_bucket_that_is_not_there_is_named(bucket, source):
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket/x .*bucket does not exist"):
        ObjectBlobs("s3://no-such-bucket/x").add(*source(b"x"))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("memory://x", "memory://x forgets all"),
        ("zzz://x", "zzz://x is no URL that fsspec knows"),
        ("gs://bucket/x", "needs a library that is not installed .*gcsfs"),
        ("ftp://ada:secret@127.0.0.1:1/x", "ftp://ada@127.0.0.1:1/x cannot be reached"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url, sentence):
    with pytest.raises(RegistryError, match=sentence) as refused:
        ObjectBlobs(url)
    assert "secret" not in str(refused.value)
