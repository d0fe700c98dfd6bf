"""Blobs behind fsspec: S3 and whatever else it reaches. Keys are `<prefix>/sha256/ab/abcd…`.

What "created only if absent" means depends on the file system:

- S3 and Google Cloud Storage: the store itself refuses to create a key that is there.
- every other: the bytes go to `<prefix>/tmp/…` and are then moved to their key, which nobody ever
  sees unfinished. Two who add one blob at once may both move it there: the bytes are the same.

How a store is reached (end point, region, credentials) is told by the environment variables of its
library and by nothing else, for S3 `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION`, `AWS_PROFILE`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and so on; `FSSPEC_<PROTOCOL>_<OPTION>` sets any
option of any file system, such as `FSSPEC_S3_ENDPOINT_URL`.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adaptery.errors import AdapteryError, CorruptFile, RegistryError, RemoteError
from adaptery.registry.files.base import Blobs, Stored
from adaptery.registry.files.digests import mismatch, sha256

_CHUNK = 8 << 20  # bytes; S3 takes 10,000 such parts, which makes files of 80 GB
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REFUSE_TO_OVERWRITE = frozenset({"s3", "s3a", "gs", "gcs"})
_FORGETFUL = frozenset({"memory"})


class ObjectBlobs(Blobs):
    """Blobs in the file system and under the prefix that an fsspec URL names."""

    def __init__(self, url: str) -> None:
        """Nothing is asked of the store yet; errors call it `url`.

        Raises:
            RegistryError: fsspec does not know such URLs, or their library is not installed.
        """
        self._url = without_password(url)
        self._fs, self._prefix = _file_system(url)
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._refuses = bool(_REFUSE_TO_OVERWRITE & set(protocols))
        # Ten parts are under way at once, and each is in memory.
        self._parts = {"chunksize": _CHUNK} if "s3" in protocols else {}

    def add(self, source: Path, digest: str, what: str | None = None) -> None:
        with self._sentences():
            found = self._rehash(digest)
            if found == digest:
                return
            actual = sha256(source)
            if actual != digest:
                raise CorruptFile(mismatch(what or source, digest, actual))
            self._put(source, digest, replace=found is not None)

    def exists(self, digest: str) -> bool:
        with self._sentences():
            return self._info(self._key(digest)) is not None

    def rehash(self, digest: str) -> str | None:
        with self._sentences():
            return self._rehash(digest)

    def fetch(self, digest: str, directory: Path) -> Path:
        target = directory / digest
        with self._sentences():
            try:
                self._fs.get_file(self._key(digest), str(target), **self._parts)
            except FileNotFoundError as error:
                raise CorruptFile(f"{self._url}/sha256/{digest[:2]}/{digest} is gone.") from error
        return target

    def stored(self) -> Iterator[Stored]:
        with self._sentences():
            try:
                found = self._fs.find(f"{self._prefix}/sha256", detail=True)
            except FileNotFoundError:
                return
        for key in sorted(found):
            digest = key.rpartition("/")[2]
            if _DIGEST.fullmatch(digest):
                size = int(found[key]["size"])
                yield Stored(digest, size, self._modified(key, found[key]))

    def remove(self, digest: str) -> None:
        with self._sentences():
            self._remove(self._key(digest))

    def set_aside(self, digest: str) -> str:
        aside = f"quarantine/{digest}"
        with self._sentences():
            self._move(self._key(digest), f"{self._prefix}/{aside}")
        return f"{self._url}/{aside}"

    def _key(self, digest: str) -> str:
        return f"{self._prefix}/sha256/{digest[:2]}/{digest}"

    def _put(self, source: Path, digest: str, *, replace: bool) -> None:
        """Upload in one step; large files in parts, never wholly in memory."""
        key = self._key(digest)
        if not self._refuses:
            self._put_and_move(source, key)
            return
        mode = "overwrite" if replace else "create"
        with suppress(FileExistsError):  # somebody else added it meanwhile
            self._fs.put_file(str(source), key, mode=mode, **self._parts)

    def _put_and_move(self, source: Path, key: str) -> None:
        unfinished = f"{self._prefix}/tmp/{uuid.uuid4().hex}"
        self._fs.makedirs(f"{self._prefix}/tmp", exist_ok=True)
        try:
            self._fs.put_file(str(source), unfinished)
            self._move(unfinished, key)
        except BaseException:
            self._remove(unfinished)
            raise

    def _move(self, source: str, target: str) -> None:
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.mv(source, target)

    def _remove(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(key)

    def _rehash(self, digest: str) -> str | None:
        hashed = hashlib.sha256()
        try:
            with self._fs.open(self._key(digest), "rb", block_size=_CHUNK) as file:
                while chunk := file.read(_CHUNK):
                    hashed.update(chunk)
        except FileNotFoundError:
            return None
        return hashed.hexdigest()

    def _info(self, key: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._fs.info(key)
        except FileNotFoundError:
            return None
        return found

    def _modified(self, key: str, info: Mapping[str, Any]) -> float:
        """When an object was written, in seconds since 1970."""
        written = info.get("LastModified") or info.get("mtime") or info.get("last_modified")
        if written is None:
            with self._sentences():
                written = self._fs.modified(key)
        return written.timestamp() if isinstance(written, datetime) else float(written)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what the store refuses into a `RemoteError`."""
        try:
            yield
        except AdapteryError:
            raise
        except Exception as error:  # every fsspec library brings errors of its own
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise RemoteError(
                f"{self._url} cannot be used: {reason}. Credentials and end point are taken from "
                "the environment; see docs/registry.md."
            ) from error


def without_password(url: str) -> str:
    """A URL as people may see it."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}@{host}").geturl()


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it."""
    protocol, shown = url.partition("://")[0], without_password(url)
    if protocol in _FORGETFUL:
        raise RegistryError(f"{shown} forgets all when this process ends. Use another store.")
    try:
        import fsspec

        # A listing that was true a moment ago must not answer for what is there now.
        system, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise RegistryError(
            f"{shown} needs a library that is not installed ({error}). For S3: "
            "pip install 'adaptery[team]'."
        ) from error
    except ValueError as error:
        raise RegistryError(f"{shown} is no URL that fsspec knows: {error}.") from error
    except OSError as error:  # some connect at once
        raise RemoteError(f"{shown} cannot be reached: {error}.") from error
    return system, path.rstrip("/")
