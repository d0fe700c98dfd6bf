"""Where an adapter to import lies: a directory, or a repository on the Hub, pinned to a commit."""

import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.errors import CorruptFile, InvalidAdapter, InvalidName, ReferenceNotFound, brief
from adaptery.registry.files.digests import sha256
from adaptery.registry.gate.config import CONFIG
from adaptery.registry.gate.lora import WEIGHTS
from adaptery.registry.gate.package import ALLOWED_FILES, TEMPLATE, check_contents
from adaptery.registry.gate.text import MAX_TEXT, listed, read_text, strict_json
from adaptery.registry.gate.unpickle import convert

if TYPE_CHECKING:
    from adaptery.registry.hub.client import HubClient
    from adaptery.registry.hub.commits import Snapshot

TOKENIZER = "tokenizer_config.json"
PICKLES = tuple(f"adapter_model.{ending}" for ending in ("bin", "pt", "pth", "ckpt", "pkl"))
_MAX_TOKENIZER = 16 * MAX_TEXT  # some list their tokens one by one
_HUB = re.compile(
    r"hf://(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>(?!.*\.\.)[A-Za-z0-9][\w./-]{0,127}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter's directory as somebody else's tool left it, or a download of it.

    `origin` is what messages call it, `files` what there is, some of it perhaps not downloaded.
    """

    directory: Path
    origin: str
    files: frozenset[str]
    commit: str | None = None

    @property
    def remote(self) -> bool:
        return self.commit is not None

    @property
    def weights(self) -> str | None:
        """The file that holds the tensors: safetensors, or else a pickle."""
        return next((name for name in (WEIGHTS, *PICKLES) if name in self.files), None)

    @property
    def left_behind(self) -> tuple[str, ...]:
        """Files that an import does not take."""
        taken = {CONFIG, self.weights, TEMPLATE if TEMPLATE in self.files else TOKENIZER}
        return tuple(sorted(self.files - taken))

    @property
    def is_pickle(self) -> bool:
        return WEIGHTS not in self.files

    def check(self, *, convert_pickle: bool) -> None:
        """Check what can be checked without opening a pickle or reading any tensor.

        Raises:
            InvalidAdapter: it is no adapter, or a pickle that is not to be converted.
        """
        self._check_there()
        for name in {*self._allowed, str(self.weights)}:
            require_plain_file(self.directory / name)
        check_contents(self.directory, self._allowed)
        if self.is_pickle and not convert_pickle:
            raise InvalidAdapter(
                f"{self.origin} keeps its tensors in {self.weights}, a pickle, which can run code "
                "when it is opened. With --convert-pickle its tensors, and nothing else, are "
                "taken out by a process of its own."
            )

    def stage(self, target: Path) -> dict[str, str]:
        """Copy the adapter into `target`, which is made, and give its provenance for a manifest.

        Raises:
            InvalidAdapter: the pickle holds more than tensors.
        """
        target.mkdir()
        provenance = {"from": self.origin} | ({"commit": self.commit} if self.commit else {})
        for name in self._allowed:
            copy_file(self.directory / name, target / name)
        if self.is_pickle:
            provenance["converted_from"] = self._convert(target)
        if TEMPLATE not in self.files:
            self._stage_template(target)
        return provenance

    @property
    def _allowed(self) -> list[str]:
        return sorted(self.files & ALLOWED_FILES.keys())

    def _check_there(self) -> None:
        """Raises `InvalidAdapter` unless there are a configuration and tensors."""
        if CONFIG not in self.files:
            inner = listed(path.parent.name for path in self.directory.glob(f"*/{CONFIG}"))
            hint = f"Perhaps it is in {inner}." if inner else f"It holds {listed(self.files)}."
            raise InvalidAdapter(f"{self.origin} is no PEFT adapter: it has no {CONFIG}. {hint}")
        if self.weights is None:
            raise InvalidAdapter(f"{self.origin} has no {WEIGHTS}. It holds {listed(self.files)}.")

    def _convert(self, target: Path) -> str:
        """Make the pickle into safetensors; gives its name and digest."""
        name = str(self.weights)
        pickle = target.with_name(name)
        copy_file(self.directory / name, pickle)
        convert(pickle, target / WEIGHTS)
        check_contents(target, [WEIGHTS])
        return f"{name} sha256:{sha256(pickle)}"

    def _stage_template(self, target: Path) -> None:
        """Take the chat template from the tokenizer's configuration, if there is one in it."""
        path = self.directory / TOKENIZER
        if TOKENIZER not in self.files:
            return
        require_plain_file(path)
        config = strict_json(read_text(path, _MAX_TOKENIZER), TOKENIZER)
        template = chat_template(config) if isinstance(config, dict) else None
        if template is not None:
            (target / TEMPLATE).write_bytes(template.encode())
            check_contents(target, [TEMPLATE])


def open_source(source: str, download: Path) -> Source:
    """The adapter at `source`, a path or `hf://ORG/REPO[@REVISION]`; `download` is made if needed.

    Raises:
        InvalidName: it looks like neither.
        InvalidAdapter: it is not a directory.
        ReferenceNotFound: the Hub has no such repository, or not for us.
    """
    if source.startswith("hf://"):
        return _download(source, download)
    path = Path(os.path.expanduser(source.removeprefix("file://")))
    if not os.path.isdir(path):  # unlike Path's own, False for whatever cannot be a path
        raise InvalidAdapter(
            f"There is no directory {brief(source)}. Give one, or hf://ORG/REPO[@REVISION]."
        )
    path = path.resolve()
    return Source(path, path.name, frozenset(os.listdir(path)))


def chat_template(config: dict[str, Any]) -> str | None:
    """The default chat template in a `tokenizer_config.json`, where several may be listed."""
    found = config.get("chat_template")
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict) and each.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) else None


def require_plain_file(path: Path) -> None:
    """Raises `InvalidAdapter` if `path` is a link or anything else but a file of its own."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InvalidAdapter(
            f"{path} is not a plain file, and links are not followed. If it is a link that you "
            "trust, copy the directory with `cp -RL` first."
        )


def copy_file(source: Path, target: Path) -> None:
    """Copy a plain file, and nothing that took its place since it was looked at."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as reader, target.open("xb") as writer:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidAdapter(f"{source} is not a plain file.")
        shutil.copyfileobj(reader, writer, 1 << 20)


def _download(source: str, target: Path) -> Source:
    match = _HUB.fullmatch(source)
    if match is None:
        raise InvalidName(
            f"{brief(source)} is no adapter on the Hub: write hf://ORG/REPO[@REVISION]."
        )
    from adaptery.registry.hub.client import HubClient

    client, repo = HubClient(), match["repo"]
    snapshot = client.snapshot(repo, match["revision"])
    if snapshot is None:
        raise ReferenceNotFound(f"There is no repository {repo} on the Hub, or not for you.")
    found = Source(target, f"hf://{repo}", frozenset(snapshot.files), snapshot.commit)
    template = TEMPLATE if TEMPLATE in found.files else TOKENIZER
    wanted = {CONFIG, found.weights, template} & found.files
    target.mkdir()
    _fetch(client, repo, snapshot, sorted(filter(None, wanted)), target)
    return found


def _fetch(
    client: "HubClient", repo: str, snapshot: "Snapshot", names: Iterable[str], target: Path
) -> None:
    """Download files of one commit, none larger than it may be, each with its digest checked."""
    for name in names:
        entry = snapshot.files[name]
        limit = {CONFIG: MAX_TEXT, TEMPLATE: MAX_TEXT, TOKENIZER: _MAX_TOKENIZER}.get(name)
        if limit is not None and entry.size > limit:
            raise InvalidAdapter(f"{name} of {repo} is larger than {limit} bytes.")
        path = client.download(repo, snapshot.commit, name, target)
        intact = sha256(path) == entry.sha256 if entry.sha256 else entry.is_of(path.read_bytes())
        if not intact:
            raise CorruptFile(f"{name} of {repo} did not arrive as the Hub has it: try again.")
