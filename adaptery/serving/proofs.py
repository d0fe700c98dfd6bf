"""Which versions have been seen to answer here as they were trained to, kept between starts.

Each is a small file whose name is the digest of what it says. One that is damaged, or says
something else, proves nothing, and the probe is replayed.
"""

import logging
import os
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adaptery.config import cache_directory
from adaptery.serving.config import ServeConfig
from adaptery.types import canonical_json, sha256_of

log = logging.getLogger(__name__)

COMPUTING = ("adaptery", "torch", "transformers", "vllm")  # packages that an answer depends on


class Proofs:
    """Manifest digests of versions, for one base and one way of computing: `setting`."""

    def __init__(self, directory: Path, base_digest: str, setting: str) -> None:
        self._directory = directory
        self._told = {"base": base_digest, "setting": setting}

    def __contains__(self, digest: object) -> bool:
        text = self._text(str(digest))
        try:
            return self._path(text).read_bytes() == text
        except OSError:
            return False

    def add(self, digest: str) -> None:
        """Remember it, whole or not at all. What cannot be kept is found out again."""
        text = self._text(digest)
        path = self._path(text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(text)
            os.replace(file.name, path)
        except OSError as error:
            log.warning("It could not be kept that a version is proven: %s", error)

    def _text(self, digest: str) -> bytes:
        return canonical_json({"version": digest, **self._told})

    def _path(self, text: bytes) -> Path:
        name = sha256_of(text)
        return self._directory / name[:2] / name


def open_proofs(config: ServeConfig, base_digest: str) -> Proofs:
    """Those in the user's cache, for a server of this configuration."""
    setting = " ".join([config.engine, config.device, config.dtype, *installed(COMPUTING)])
    return Proofs(cache_directory() / "proofs", base_digest, setting)


def installed(packages: Iterable[str]) -> list[str]:
    """Those that there are, with their versions."""
    found = []
    for package in packages:
        try:
            found.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return found
