"""The frozen values that every part shares: references, manifests, versions, events.

`registry`, `trainers` and `serving` do not import one another; what passes between them is here.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from adaptery.errors import InvalidName, brief

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_]|\.(?!\.)|-(?!-)){0,62}(?<![._-])(?<!\.git)")
ALIAS = re.compile(r"[a-z][a-z0-9-]{0,31}(?<!-)")
DIGEST_PREFIX = re.compile(r"sha256:[0-9a-f]{8,64}")
HUB_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_]|[.-](?![.-])){0,95}(?<![.-])")
TAG_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
LIVE, LATEST = "live", "latest"
_MAX_TEXT = 4096  # characters

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def check_name(name: str) -> str:
    """`name`, if it may name an adapter.

    Raises:
        InvalidName: it is not 1–63 of `a-z 0-9 . _ -`, starting and ending with a letter or digit,
            without `..`, `--` or `.git` at the end, which the Hub does not take. Lower case only,
            so that no file system merges two names.
    """
    if not NAME.fullmatch(name):
        raise InvalidName(
            f"{brief(name)} cannot name an adapter: use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting and ending with a letter or digit, without '..' and '--' and '.git' at the "
            "end."
        )
    return name


def check_alias(alias: str) -> str:
    """`alias`, if it may name a version.

    Raises:
        InvalidName: it is not a letter followed by at most 31 of `a-z 0-9 -`, or it is `latest`
            or looks like a version tag (`v3`), which have a meaning of their own.
    """
    if alias == LATEST or re.fullmatch(r"v\d+", alias) or not ALIAS.fullmatch(alias):
        raise InvalidName(
            f"{brief(alias)} cannot be an alias: use a letter followed by at most 31 of a-z, 0-9 "
            f"and '-' (and neither '{LATEST}' nor a version tag such as 'v3')."
        )
    return alias


def check_text(text: str, what: str) -> str:
    """`text`, if a history can keep it: what people write as a reason, a note or a tag's value.

    Raises:
        InvalidName: it is longer than 4,096 characters, or holds a control character other than
            a line break or tab (a terminal would obey it), or half a surrogate pair.
    """
    bad = next((c for c in text if not c.isprintable() and c not in "\n\t\u00a0\u200d"), None)
    if bad is not None:
        raise InvalidName(f"{what} cannot hold the character {bad!r}: use printable text.")
    if len(text) > _MAX_TEXT:
        raise InvalidName(f"{what} has {len(text)} characters; at most {_MAX_TEXT} are kept.")
    return text


def check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    """`tags`, if there are any and a version may carry them; an empty value takes a tag away.

    Raises:
        InvalidName: a key is not a letter or digit followed by at most 62 of `a-z 0-9 _ . -`, or
            a value is not text that can be kept.
    """
    if not tags:
        raise InvalidName("No tag was given: write key=value, or key= to take a tag away.")
    for key, value in tags.items():
        if not TAG_KEY.fullmatch(key):
            raise InvalidName(
                f"{key!r} cannot be a tag: use a letter or digit followed by at most 62 of a-z, "
                "0-9, '_', '.' and '-'."
            )
        check_text(value, f"The value of the tag {key!r}")
    return tags


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """Which version of which adapter: `support`, `support@3`, `support@canary`, `support@sha256:…`.

    Exactly one of `number`, `alias` and `digest` is set; a bare name means the alias `live`.
    `latest` is the highest number and not a stored alias.
    """

    name: str
    number: int | None = None
    alias: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as users write it.

        Raises:
            InvalidName: the name or what follows the `@` breaks the grammar.
        """
        name, at, selector = text.partition("@")
        check_name(name)
        if not at:
            return cls(name, alias=LIVE)
        if re.fullmatch(r"v?[1-9][0-9]{0,8}", selector):
            return cls(name, number=int(selector.removeprefix("v")))
        if selector.startswith("sha256:"):
            if not DIGEST_PREFIX.fullmatch(selector):
                raise InvalidName(
                    f"{brief(text)}: a digest is 'sha256:' and 8 to 64 hexadecimal digits in lower "
                    "case."
                )
            return cls(name, digest=selector.removeprefix("sha256:"))
        return cls(name, alias=selector if selector == LATEST else check_alias(selector))

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.name}@{self.number}"
        if self.digest is not None:
            return f"{self.name}@sha256:{self.digest}"
        return self.name if self.alias == LIVE else f"{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class RemoteRef:
    """A version in another registry: `hf://org/support@v3` is `support@3` in the registry `hf://org`."""

    registry: str
    ref: AdapterRef

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a remote reference.

        Raises:
            InvalidName: it is not `hf://ORG/NAME` with an optional `@v3`, `@alias` or digest.
        """
        match = re.fullmatch(rf"(hf://{HUB_OWNER.pattern})/([^/]+)", text)
        if not match:
            raise InvalidName(f"{brief(text)} is not a remote reference: write hf://ORG/NAME[@v3].")
        return cls(match[1], AdapterRef.parse(match[2]))

    def __str__(self) -> str:
        number = self.ref.number
        return (
            f"{self.registry}/{self.ref.name}@v{number}"
            if number
            else f"{self.registry}/{self.ref}"
        )


class Value(BaseModel):
    """A frozen, strictly checked piece of a manifest. Unknown fields are errors, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(Value):
    """One file of a version. `path` is a plain file name; where bytes lie derives from `sha256`."""

    path: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,126}$")]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class BaseIdentity(Value):
    """Which base model: its Hub id or path, its revision, and the digest that decides.

    `id` and `revision` say where it was found; two bases are the same if their digests are.
    """

    id: str
    revision: str | None = None
    digest: Sha256


class TokenScore(Value):
    """A token with its log-probability (nats) under the trained model and under the base alone."""

    token: int
    trained: float
    base: float


class ProbePrompt(Value):
    """A prompt and the trained model's most likely next tokens, best first."""

    token_ids: tuple[int, ...]
    top: tuple[TokenScore, ...]


class Manifest(Value):
    """What a version is. Its canonical JSON's SHA-256 is the version's identity.

    It holds nothing that differs between two runs that made the same thing: no time, no host.
    """

    schema_version: Literal[1] = 1
    files: tuple[FileEntry, ...]
    base: BaseIdentity
    method: str
    config: dict[str, JsonValue] = {}
    data_digest: Sha256 | None = None
    template_digest: Sha256 | None = None
    tokenizer_digest: Sha256 | None = None
    packages: dict[str, str] = {}
    seed: int | None = None
    metrics: dict[str, float] = {}
    probe: tuple[ProbePrompt, ...] = ()

    def canonical(self) -> bytes:
        """UTF-8 JSON, keys sorted, no white space: the same bytes wherever it is written."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of `canonical()`, in hexadecimal."""
        return sha256_of(self.canonical())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def sha256_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value that digests are taken from.

    Raises:
        ValueError: the value holds a NaN or an infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


@dataclass(frozen=True, slots=True)
class AdapterPackage:
    """An adapter as it travels: a directory that holds exactly the manifest's files."""

    directory: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Version:
    """One published version of an adapter. Nothing in it ever changes."""

    name: str
    number: int
    manifest: Manifest
    digest: str
    created_at: datetime
    created_by: str

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def engine_name(self) -> str:
        """The only name that engines and their caches see, so that no cache can mix versions."""
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class Alias:
    """Where a movable name points. `generation` counts its moves, for compare-and-swap."""

    adapter: str
    name: str
    number: int
    generation: int


class EventKind(StrEnum):
    PUBLISHED = "published"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    YANKED = "yanked"
    UNYANKED = "unyanked"
    TAGGED = "tagged"
    NOTED = "noted"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Event:
    """One row of an adapter's append-only history.

    `id` is its place in that history, from 1. For a moved alias `previous` is the version number
    that it pointed to before, if any, and `generation` the alias' generation after the move. The
    text of a note is its `reason`. `data` holds tags, a signature, or for a publication the
    version's manifest digest under `digest`.
    """

    id: int
    adapter: str
    kind: EventKind
    number: int
    alias: str | None
    previous: int | None
    generation: int | None
    actor: str
    at: datetime
    reason: str
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """What has been said of a version since it was published; `yanked` is the reason, if it is."""

    aliases: tuple[str, ...] = ()
    yanked: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()


class VersionSource(Protocol):
    """What the server needs of a registry."""

    def resolve(self, ref: AdapterRef) -> Version:
        """The version that `ref` means now. Raises `ReferenceNotFound`."""

    def materialize(self, version: Version) -> Path:
        """A directory with the version's files, digests checked. Raises `CorruptFile`."""

    def versions(self, name: str | None = None) -> Sequence[Version]:
        """All versions, of one adapter or of all, in order of name and number."""

    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        """Where aliases point, of one adapter or of all."""

    def standing(self, name: str) -> Mapping[int, Standing]:
        """What has been said of each version of an adapter since, by number."""

    def lease(self, version: Version, holder: str, seconds: float) -> None:
        """Promise that the version's directory is in use for so long; again to renew it."""

    def release(self, version: Version, holder: str) -> None:
        """Give the lease back, if there is one."""


class LifecycleHooks(Protocol):
    """Who is asked and told when a registry changes; the plugin manager is one."""

    def objections(self, version: Version, alias: str) -> Iterable[str]:
        """Reasons why `alias` must not move to `version`."""

    def notify(self, event: Event, version: Version) -> None:
        """Something was published, promoted or rolled back."""
