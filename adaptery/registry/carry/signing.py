"""Signatures of versions: `adapters sign` and `adapters verify --signature`.

The OpenSSF library `model-signing` signs manifest.json and every file of a version with an
elliptic-curve key. The signature, a Sigstore bundle, is kept as an event of the version, so it
goes wherever the history goes.
"""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaptery.errors import VerificationError
from adaptery.registry.base import Registry
from adaptery.registry.carry.keys import check_private_key, public_key_hint
from adaptery.registry.carry.transfer import checked_out
from adaptery.types import AdapterRef, Event, EventKind, Version


def sign(registry: Registry, ref: AdapterRef, key: Path, password: str | None = None) -> Event:
    """Sign the manifest and all files of the version that `ref` means, and keep the signature.

    Args:
        key: a private key on the curve P-256, P-384 or P-521, in PEM.
        password: of the key, if it is encrypted.

    Raises:
        UsageError: the extra `sign` is not installed, or `key` cannot be used.
        ReferenceNotFound: `ref` means nothing.
        CorruptFile: a file of the version no longer has its digest.
    """
    check_private_key(key, password)
    from model_signing import signing

    # The library asks for a text here, but what it calls with it takes only bytes.
    secret = password.encode() if password else None
    signer = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
    version = registry.resolve(ref)
    with _signed_files(registry, version) as directory:
        signature = directory.with_name("signature.json")
        signer.set_hashing_config(_hash_everything()).sign(directory, signature)
        text = signature.read_text()
    return registry.attach_signature(AdapterRef(version.name, number=version.number), text)


def verify_signature(registry: Registry, ref: AdapterRef, public_key: Path) -> Event:
    """The event that signed the version that `ref` means with this key; the last one of several.

    Every byte of the version is read.

    Raises:
        UsageError: the extra `sign` is not installed, or `public_key` cannot be used.
        ReferenceNotFound: `ref` means nothing.
        VerificationError: no signature of the version is by this key, or what it signs is not
            what is kept.
        CorruptFile: a file of the version no longer has its digest.
    """
    hint = public_key_hint(public_key)
    version = registry.resolve(ref)
    signed = [
        event
        for event in registry.history(version.name)
        if event.kind is EventKind.SIGNED and event.number == version.number
    ]
    if not signed:
        raise VerificationError(f"{version} was never signed: `adapters sign` does that.")
    ours = [event for event in signed if _hint(event.data["signature"]) == hint]
    if not ours:
        number = "signature" if len(signed) == 1 else f"{len(signed)} signatures"
        raise VerificationError(f"The {number} of {version}: none is by the key {public_key}.")
    with _signed_files(registry, version) as directory:
        faults = []
        for event in reversed(ours):
            fault = _fault(directory, event.data["signature"], public_key)
            if fault is None:
                return event
            faults.append(fault)
    raise VerificationError(
        f"The signature of {version} that claims to be by the key {public_key} does not hold: "
        f"{faults[0]}."
    )


def _fault(directory: Path, signature: str, public_key: Path) -> str | None:
    """Why the signature is none of the files in `directory` by this key; None if it is one."""
    from model_signing import verifying

    path = directory.with_name("signature.json")
    path.write_text(signature)
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.set_hashing_config(_hash_everything()).verify(directory, path)
        names = _signed_names(signature)
    except Exception as error:  # noqa: BLE001 - a text from elsewhere fails in any way it likes
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    missing = {file.name for file in directory.iterdir()} - names
    return f"it leaves out {', '.join(sorted(missing))}" if missing else None


@contextmanager
def _signed_files(registry: Registry, version: Version) -> Iterator[Path]:
    """What a signature covers, in a directory apart from the registry's own."""
    with checked_out(registry, version) as package, TemporaryDirectory() as private:
        directory = Path(private) / "version"
        shutil.copytree(package.directory, directory, copy_function=_link_or_copy)
        (directory / "manifest.json").write_bytes(version.manifest.canonical())
        yield directory


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _hash_everything() -> Any:
    """No path is passed over, whatever it is called."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)


def _hint(signature: str) -> str | None:
    """Which key the signature claims to be by: the SHA-256 of the public key's PEM text."""
    try:
        hint = json.loads(signature)["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return hint if isinstance(hint, str) else None


def _signed_names(signature: str) -> set[str]:
    """The files that a verified signature covers."""
    payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in payload["predicate"]["resources"]}
