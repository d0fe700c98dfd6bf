"""The keys that sign: elliptic-curve keys in PEM files, and what is wrong with others."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from adaptery.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MAKE_ONE = (
    "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` makes one, and "
    "`openssl ec -in key.pem -pubout -out key.pub.pem` its public half."
)


def check_private_key(path: Path, password: str | None) -> None:
    """Check that `path` holds a private key that can sign, and that `password` opens it.

    Raises:
        UsageError: it does not, or the extra `sign` is not installed.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read(path)
    if b"PUBLIC KEY" in pem:
        raise UsageError(f"{path} is a public key; signing takes the private one.")
    try:
        key = load_pem_private_key(pem, password.encode() if password else None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        _refuse_private(path, error, password)
    _check_curve(path, key.public_key())


def public_key_hint(path: Path) -> str:
    """How signatures name the public key in `path`: the SHA-256 of its PEM text.

    Raises:
        UsageError: it holds no public key that can verify, or the extra `sign` is not installed.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    pem = _read(path)
    if b"PRIVATE KEY" in pem:
        raise UsageError(
            f"{path} is a private key, which must stay with whoever signs; verifying takes the "
            f"public one, which `openssl ec -in {path} -pubout` prints."
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is no public key in PEM. {_MAKE_ONE}") from error
    text = _check_curve(path, key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(text).hexdigest()


def _refuse_private(path: Path, error: Exception, password: str | None) -> NoReturn:
    """Say why a private key could not be loaded: the library tells a password by `TypeError`."""
    if isinstance(error, TypeError) and not password:
        raise UsageError(
            f"{path} is encrypted: name the variable that holds its password with --password-env."
        ) from error
    if isinstance(error, TypeError):
        raise UsageError(f"{path} is not encrypted, so it takes no password.") from error
    if password:
        raise UsageError(f"{path} does not open with this password.") from error
    raise UsageError(f"{path} is no private key in PEM. {_MAKE_ONE}") from error


def _check_curve(path: Path, key: object) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    found = "is not an elliptic-curve key"
    if isinstance(key, EllipticCurvePublicKey):
        if key.curve.name in _CURVES:
            return key
        found = f"is on the curve {key.curve.name}"
    raise UsageError(
        f"{path} {found}; signatures need one of {', '.join(_CURVES.values())}. {_MAKE_ONE}"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The key {path} cannot be read: {error.strerror}.") from error


def _require_library() -> None:
    try:
        import model_signing.signing  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Signatures need the extra 'sign' ({error}): pip install 'adaptery[sign]'."
        ) from error
