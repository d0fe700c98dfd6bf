"""The calls that a registry makes of the Hub, over the real client, with failures as sentences."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

# The root of what the client's HTTP library raises: httpx in its version 1, httpx2 in version 2.
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from adaptery.errors import CorruptFile, InvalidName, RemoteError, join

_PRECONDITION_FAILED = 412


@dataclass(frozen=True, slots=True)
class Head:
    """What `main` is at one moment: a commit and the paths that it holds."""

    commit: str
    files: frozenset[str]


class _Quiet(tqdm):
    """No progress bar for files of a few kilobytes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


class HubClient:
    """Model repositories on one Hub. Every method raises `RemoteError` if the Hub says no."""

    def __init__(self, endpoint: str | None = None) -> None:
        """Talk to `endpoint`, else $HF_ENDPOINT, else huggingface.co, as whoever is logged in."""
        # The library reads $HF_ENDPOINT once, at import; it may have been set since.
        self._api = HfApi(
            endpoint=endpoint or os.environ.get("HF_ENDPOINT"), library_name="adaptery"
        )

    def repositories(self, author: str, tag: str) -> list[str]:
        """The names of the author's repositories whose cards carry `tag`."""
        with self._sentences(f"Listing the adapters of {author}"):
            found = self._api.list_models(author=author, filter=tag)
            return [model.id.partition("/")[2] for model in found]

    def head(self, repo: str) -> Head | None:
        """What `main` is now; None if there is no such repository, or none that we may see."""
        with self._sentences(f"Reading {repo}"):
            try:
                info = self._api.model_info(repo)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
            return Head(str(info.sha), frozenset(s.rfilename for s in info.siblings or ()))

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The bytes of a small file in `commit`."""
        with TemporaryDirectory() as directory:
            return self.download(repo, commit, path, Path(directory), quiet=True).read_bytes()

    def download(
        self, repo: str, commit: str, path: str, directory: Path, *, quiet: bool = False
    ) -> Path:
        """Fetch a file of `commit` into `directory`. The client checks its size, not its bytes.

        Raises:
            CorruptFile: the commit does not have the file.
        """
        with self._sentences(f"Downloading {path} from {repo}"):
            try:
                fetched = self._api.hf_hub_download(
                    repo,
                    path,
                    revision=commit,
                    local_dir=directory,
                    force_download=True,  # the client's own cache is not verified
                    tqdm_class=_Quiet if quiet else None,
                )
            except RemoteEntryNotFoundError as error:
                raise CorruptFile(f"{repo} has no {path} in commit {commit}.") from error
        return Path(fetched)

    def create(self, repo: str, *, private: bool) -> None:
        """Make the repository if there is none, as visible as its owner makes them by default.

        With `private`, only its owner sees it.
        """
        with self._sentences(f"Creating {repo}"):
            self._api.create_repo(repo, private=private or None, exist_ok=True)

    def commit(
        self,
        repo: str,
        head: Head,
        title: str,
        description: str,
        additions: Mapping[str, Path | bytes],
        deletions: Iterable[str] = (),
    ) -> RemoteError | None:
        """Put one commit on top of `head`.

        Returns None when that is done. If `main` had moved on, or the answer got lost so that
        nobody knows, returns the error to raise in case looking again does not help.
        """
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, content) for path, content in additions.items()),
            *(CommitOperationDelete(path) for path in deletions),
        ]
        doing = f"Committing to {repo}"
        with self._sentences(doing):
            try:
                self._api.create_commit(
                    repo,
                    operations,
                    commit_message=title,
                    commit_description=description,
                    parent_commit=head.commit,
                )
            except TransportError as error:
                if not _unsettled(error):
                    raise
                return self._error(doing, error)
        return None

    def tags(self, repo: str) -> dict[str, str]:
        """The repository's tags and the commits that they name."""
        with self._sentences(f"Reading the tags of {repo}"):
            return {tag.name: tag.target_commit for tag in self._api.list_repo_refs(repo).tags}

    def tag(self, repo: str, tag: str, commit: str) -> None:
        """Name `commit`. If the tag is there already it stays what it is."""
        with self._sentences(f"Tagging {repo} with {tag}"):
            self._api.create_tag(repo, tag=tag, revision=commit, exist_ok=True)

    def find_commit(self, repo: str, text: str) -> str | None:
        """The newest commit whose title contains `text`."""
        with self._sentences(f"Reading the commits of {repo}"):
            commits = self._api.list_repo_commits(repo)
            return next((commit.commit_id for commit in commits if text in commit.title), None)

    @contextmanager
    def _sentences(self, doing: str) -> Iterator[None]:
        try:
            yield
        except HFValidationError as error:
            raise InvalidName(f"The Hub does not take this name: {error}") from error
        except (TransportError, OSError, RuntimeError, ValueError) as error:
            raise self._error(doing, error) from error

    def _error(self, doing: str, error: Exception) -> RemoteError:
        # The client wraps what goes wrong in an upload; its messages have several lines.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        said = " ".join(str(cause).split()).rstrip(".")
        hint = ""
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            hint = "Log in with `hf auth login`, or set HF_TOKEN to a token that may do this."
        return RemoteError(
            join(f"{doing} failed on the Hub at {self._api.endpoint}: {said}.", hint)
        )


def _unsettled(error: TransportError) -> bool:
    """Whether a commit that ended so may have happened, or may happen if tried again."""
    if not isinstance(error, HfHubHTTPError):
        return True
    status = error.response.status_code
    return bool(status == _PRECONDITION_FAILED or status >= 500)
