"""What the peer keeps: repositories of commits and tags, and the bytes that they refer to."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml


@dataclass
class File:
    """A file in a commit: its bytes lie under `sha256`; `oid` is what git or LFS calls them."""

    sha256: str
    oid: str
    size: int
    lfs: bool


@dataclass
class Commit:
    id: str
    title: str
    message: str
    date: str
    files: dict[str, File]


@dataclass
class Repo:
    """One model repository. The last commit is `main`."""

    id: str
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag or id means."""
        wanted = self.head.id if revision == "main" else self.tags.get(revision, revision)
        found = next((commit for commit in self.commits if commit.id == wanted), None)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def add(self, title: str, message: str, files: dict[str, File]) -> Commit:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        seed = f"{self.id}\n{len(self.commits)}\n{title}\n{now}"
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits.append(Commit(oid, title, message, now, files))
        return self.head


class HubError(Exception):
    """An answer that is an error; `code` goes into `X-Error-Code`, which the client reads."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        retry_after: int | str | None = None,
        **more: str,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after
        self.body = {"error": message, **more}


class Store:
    """Repositories by name, in `root`: JSON for what they say, a file per SHA-256 for the bytes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        self.repos = self._load()

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.repos[name]

    def card(self, repo: Repo) -> dict[str, Any]:
        """The metadata in the front matter of the newest README.md."""
        readme = repo.head.files.get("README.md")
        return front_matter(self.blob(readme.sha256).read_text()) if readme else {}

    def blob(self, sha256: str) -> Path:
        return self._root / "blobs" / sha256

    def write(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blob(digest).write_bytes(data)
        return digest

    def regular(self, data: bytes) -> File:
        """A file that is kept in git itself."""
        return File(self.write(data), git_id(data), len(data), lfs=False)

    def large(self, oid: str) -> File:
        """A file that was uploaded as an LFS object before."""
        if not self.blob(oid).exists():
            raise HubError(400, f"The LFS object {oid} was never uploaded")
        return File(oid, oid, self.blob(oid).stat().st_size, lfs=True)

    def save(self) -> None:
        text = json.dumps([asdict(repo) for repo in self.repos.values()])
        (self._root / "repos.json").write_text(text)

    def _load(self) -> dict[str, Repo]:
        path = self._root / "repos.json"
        if not path.exists():
            return {}
        repos = {}
        for entry in json.loads(path.read_text()):
            commits = [
                Commit(**{**c, "files": {p: File(**f) for p, f in c["files"].items()}})
                for c in entry["commits"]
            ]
            repos[entry["id"]] = Repo(**{**entry, "commits": commits})
        return repos


def git_id(data: bytes) -> str:
    """What git calls a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def front_matter(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else {}
