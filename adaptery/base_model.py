"""Where a base model is found, and how two of them are told apart.

Trainers need a base to train on, the registry to check adapters against, serving to load: so it
stands beside `types`, below all three. Nothing heavy is imported before a function needs it.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from adaptery.errors import BaseMismatch, BaseNotFound
from adaptery.types import BaseIdentity, Manifest, canonical_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Keys of config.json that say how it was written or is run, not what the model computes.
INCIDENTAL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
SAMPLE = 4096  # bytes read of each end of each tensor for the digest
WEIGHTS = "*.safetensors"
OUTLINE = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
FILES = [*OUTLINE, WEIGHTS]


@dataclass(frozen=True, slots=True)
class BaseTensor:
    """What a base's file says of one tensor: `dtype` as safetensors names it, such as BF16."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LocalBase:
    """A base model whose files are on this machine."""

    directory: Path
    identity: BaseIdentity

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base's tokenizer, from its local files alone.

        Raises:
            BaseNotFound: there is none, or it cannot be read.
        """
        return read_tokenizer(self.directory)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What `config.json` says."""
        return read_config(self.directory)

    @cached_property
    def tensors(self) -> dict[str, BaseTensor]:
        """Every tensor of the base by name, from the headers of its files.

        Raises:
            BaseNotFound: a file cannot be read.
        """
        found: dict[str, BaseTensor] = {}
        for shard in sorted(self.directory.glob("*.safetensors")):
            with readable(shard), shard.open("rb") as file:
                for name, entry in read_entries(file)[1].items():
                    found[name] = BaseTensor(str(entry["dtype"]), tuple(entry["shape"]))
        return found

    @property
    def tokenizer_digest(self) -> str:
        """SHA-256 over vocabulary, merges and special tokens, however the files are laid out."""
        backend = copy.deepcopy(getattr(self.tokenizer, "backend_tokenizer", None))
        if backend:
            backend.no_truncation()  # how it was last called is written into it too
            backend.no_padding()
        content = (
            backend.to_str() if backend else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def require(self, manifest: Manifest, who: str) -> None:
        """Do nothing if the adapter `who` was trained on this base.

        Raises:
            BaseMismatch: it was trained on another one.
        """
        if manifest.base.digest != self.identity.digest:
            raise BaseMismatch(
                f"{who} was trained on {describe(manifest.base)}, but the base here is "
                f"{describe(self.identity)}. Use that base, or train the adapter on this one."
            )


def read_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a directory, from its local files alone.

    Raises:
        BaseNotFound: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory)
    except Exception as error:
        raise BaseNotFound(
            f"The tokenizer of {directory} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        # transformers makes an empty one up where the files are missing
        raise BaseNotFound(f"{directory} holds no tokenizer.")
    return tokenizer


def describe(base: BaseIdentity) -> str:
    """A base as messages name it: id, revision if known, start of the digest."""
    revision = f" at {base.revision[:12]}" if base.revision else ""
    return f"{base.id}{revision} ({base.digest[:12]})"


def open_base(base: str, revision: str | None = None) -> LocalBase:
    """Find the base model `base`: a directory, or a model on the Hub that is then downloaded.

    Args:
        base: a path, or a Hub id such as `Qwen/Qwen2.5-0.5B-Instruct`.
        revision: a branch, tag or commit of a Hub model.

    Raises:
        BaseNotFound: it is neither, or it lacks what a base needs (config, safetensors, tokenizer).
    """
    directory, commit = find(base, revision, FILES)
    digest = base_digest(directory)
    return LocalBase(directory, BaseIdentity(id=base, revision=commit, digest=digest))


def open_tokenizer(base: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer of the base model `base`, without its weights: they need not even be there.

    Raises:
        BaseNotFound: there is no such base, or no tokenizer in it.
    """
    return read_tokenizer(find(base, revision, OUTLINE)[0])


def outline_base(base: str, revision: str | None = None) -> LocalBase:
    """The base without its weights, for what its configuration and tokenizer tell.

    The digest of its identity is of the configuration alone, so it is no adapter's base.

    Raises:
        BaseNotFound: there is no such base, or it has no config.json.
    """
    directory, commit = find(base, revision, OUTLINE)
    digest = hashlib.sha256(canonical_json(read_config(directory))).hexdigest()
    return LocalBase(directory, BaseIdentity(id=base, revision=commit, digest=digest))


def find(base: str, revision: str | None, patterns: list[str]) -> tuple[Path, str | None]:
    """Where the files of a base are, and of which commit if they are the Hub's.

    Raises:
        BaseNotFound: `base` is neither a directory nor on the Hub.
    """
    path = Path(os.path.expanduser(base))
    if os.path.isdir(path):  # unlike Path's own, False for whatever cannot be a path
        return path, None
    if looks_like_a_path(base):
        raise BaseNotFound(
            f"There is no directory {base!r}. Give a directory, or a Hub id such as "
            "Qwen/Qwen2.5-0.5B-Instruct."
        )
    return download(base, revision, patterns)


def looks_like_a_path(base: str) -> bool:
    """Whether `base` cannot be a Hub id (`name` or `org/name`)."""
    return base.startswith((".", "/", "~", os.sep)) or base.count("/") > 1 or base.endswith("/")


def download(base: str, revision: str | None, patterns: list[str]) -> tuple[Path, str]:
    """The local snapshot of some files of a Hub model, and the commit it is of."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # The library reads $HF_ENDPOINT once, at import; it may have been set since.
        endpoint = os.environ.get("HF_ENDPOINT")
        directory = Path(
            snapshot_download(base, revision=revision, allow_patterns=patterns, endpoint=endpoint)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseNotFound(
            f"The base model {base!r} is not a directory here and could not be had from the Hub: "
            f"{reason(error, revision)}. Give a directory, or check the name and the network."
        ) from error
    return directory, directory.name


def reason(error: Exception, revision: str | None) -> str:
    """Why the Hub did not give a model, in a line."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return "it has no such model, or not for you"
    if isinstance(error, RevisionNotFoundError):
        return f"it has the model, but not the revision {revision!r}"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def base_digest(directory: Path) -> str:
    """SHA-256 of what the model computes: its config, and each tensor's name, shape, dtype, ends.

    Reading both ends of every tensor tells fine-tunes of one architecture apart at a cost of
    megabytes, and does not depend on how the weights are split into files.

    Raises:
        BaseNotFound: config.json or the safetensors files are missing or unreadable.
    """
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise BaseNotFound(
            f"{directory} holds no *.safetensors file, so it is no base model that can be used."
        )
    config = {key: value for key, value in read_config(directory).items() if key not in INCIDENTAL}
    tensors: dict[str, list[Any]] = {}
    for shard in shards:
        tensors |= tensor_fingerprints(shard)
    return hashlib.sha256(canonical_json({"config": config, "tensors": tensors})).hexdigest()


def read_config(directory: Path) -> dict[str, Any]:
    try:
        # Infinities, which some models have and strict JSON has not, become their names.
        config = json.loads(
            (directory / "config.json").read_text(encoding="utf-8"), parse_constant=str
        )
        if not isinstance(config, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise BaseNotFound(
            f"{directory} is no base model: its config.json cannot be read ({error})."
        ) from error
    return config


def tensor_fingerprints(shard: Path) -> dict[str, list[Any]]:
    """Tensor name → [dtype, shape, SHA-256 of its first and last bytes] of one safetensors file."""
    prints = {}
    with readable(shard), shard.open("rb") as file:
        origin, entries = read_entries(file)
        size = os.fstat(file.fileno()).st_size
        for name, entry in entries.items():
            begin, end = (origin + offset for offset in entry["data_offsets"])
            if end > size:
                raise ValueError(f"{name} ends at byte {end} of {size}")
            file.seek(begin)
            sample = file.read(min(SAMPLE, end - begin))
            file.seek(max(begin, end - SAMPLE))
            sample += file.read(min(SAMPLE, end - begin))
            prints[name] = [entry["dtype"], entry["shape"], hashlib.sha256(sample).hexdigest()]
    return prints


def read_entries(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Where the bytes of a safetensors file's tensors begin, and its header's entry for each."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length if length < size else 0))
    header.pop("__metadata__", None)
    return 8 + length, header


@contextmanager
def readable(shard: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a safetensors file into `BaseNotFound`."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise BaseNotFound(f"{shard} is not a readable safetensors file ({error}).") from error
