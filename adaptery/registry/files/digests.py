"""SHA-256 of files, and the sentence for one that no longer has it."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(what: Path | str, expected: str, actual: str) -> str:
    """The sentence that says that `what` is not what it is claimed to be."""
    return (
        f"{what} does not have the digest that it must have: "
        f"expected sha256:{expected}, found sha256:{actual}."
    )
