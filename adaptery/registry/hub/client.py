"""The calls that a registry makes of the Hub, over the real client, with failures as sentences."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from adaptery.errors import (
    AdapteryError,
    CorruptFile,
    InvalidName,
    RegistryError,
    RemoteError,
    join,
)
from adaptery.registry.hub import patience
from adaptery.registry.hub.commits import Addition, Entry, Snapshot, Unsettled
from adaptery.registry.hub.patience import TransportError

T = TypeVar("T")

_TAKEN, _PRECONDITION_FAILED = 409, 412


class _Quiet(tqdm):
    """No progress bar for files of a few kilobytes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


class HubClient:
    """Model repositories on one Hub. Every method raises `RemoteError` if the Hub says no."""

    def __init__(self, endpoint: str | None = None, *, answer_s: float = patience.ANSWER_S) -> None:
        """Talk to `endpoint`, else $HF_ENDPOINT, else huggingface.co, as whoever is logged in.

        Args:
            answer_s: give up on an answer of which nothing came for so long.
        """
        # The library reads $HF_ENDPOINT once, at import; it may have been set since.
        self._api = HfApi(
            endpoint=endpoint or os.environ.get("HF_ENDPOINT"), library_name="adaptery"
        )
        self._answer_s = answer_s

    @property
    def anonymous(self) -> bool:
        """Whether nobody is logged in, so that private repositories look like none."""
        return get_token() is None

    def repositories(self, author: str, tag: str) -> list[str]:
        """The names of the author's repositories whose cards carry `tag`."""

        def listed() -> list[str]:
            found = self._api.list_models(author=author, filter=tag)
            return [model.id.partition("/")[2] for model in found]

        return self._ask(f"Listing the adapters of {author}", listed)

    def snapshot(self, repo: str, commit: str | None = None) -> Snapshot | None:
        """What `commit` holds, or `main` now; None if there is no repository, or none for us.

        Raises:
            CorruptFile: the repository has no such commit.
        """

        def looked() -> Snapshot | None:
            try:
                info = self._api.model_info(
                    repo, revision=commit, files_metadata=True, timeout=self._answer_s
                )
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
            except RevisionNotFoundError as error:
                raise CorruptFile(f"{repo} has no commit {commit}.") from error
            files = {s.rfilename: Entry.of(s) for s in info.siblings or ()}
            return Snapshot(str(info.sha), files, bool(info.private))

        return self._ask(f"Reading {repo}", looked)

    def download(
        self, repo: str, commit: str, path: str, directory: Path, *, quiet: bool = False
    ) -> Path:
        """Fetch a file of `commit` into `directory`. The client checks its size, not its bytes.

        Raises:
            CorruptFile: the commit does not have the file, or it does not come in full.
        """

        def fetched() -> Path:
            try:
                file = self._api.hf_hub_download(
                    repo,
                    path,
                    revision=commit,
                    local_dir=directory,
                    force_download=True,  # the client's own cache is not verified
                    tqdm_class=_Quiet if quiet else None,
                )
            except (RemoteEntryNotFoundError, RevisionNotFoundError) as error:
                raise CorruptFile(f"{repo} has no {path} in commit {commit}.") from error
            except OSError as error:
                if isinstance(error, HfHubHTTPError) or error.errno is not None:
                    raise
                raise CorruptFile(
                    f"{path} of {repo} at commit {commit} does not come in full: {_line(error)}."
                ) from error
            return Path(file)

        return self._ask(f"Downloading {path} from {repo}", fetched)

    def create(self, repo: str, *, private: bool) -> None:
        """Make the repository if there is none, as visible as its owner makes them by default.

        With `private`, only its owner sees it.
        """
        self._ask(
            f"Creating {repo}",
            lambda: self._api.create_repo(repo, private=private or None, exist_ok=True),
        )

    def commit(
        self,
        repo: str,
        parent: str,
        title: str,
        description: str,
        additions: Iterable[Addition],
        deletions: Iterable[str] = (),
    ) -> str | Unsettled:
        """Put one commit on top of `parent`, and give its id.

        Never tries twice: only a look at `main` tells whether a lost answer was a yes. Additions
        may be used again in another try, and are not uploaded again then.
        """
        doing = f"Committing to {repo}"
        with self._sentences(doing):
            operations: list[Addition | CommitOperationDelete] = [
                *additions,
                *(CommitOperationDelete(path) for path in deletions),
            ]
            try:
                made = self._api.create_commit(
                    repo,
                    operations,
                    commit_message=title,
                    commit_description=description,
                    parent_commit=parent,
                )
            except TransportError as error:
                if not _unsettled(error):
                    raise
                return Unsettled(self._error(doing, error), patience.pause_asked(error))
        return str(made.oid)

    def tags(self, repo: str) -> dict[str, str]:
        """The repository's tags and the commits that they name; none if there is no repository."""

        def listed() -> dict[str, str]:
            try:
                refs = self._api.list_repo_refs(repo)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return {}
            return {tag.name: tag.target_commit for tag in refs.tags}

        return self._ask(f"Reading the tags of {repo}", listed)

    def tag(self, repo: str, tag: str, commit: str) -> str:
        """Name `commit`; a tag that is there stays. Returns the commit that the tag names now."""

        def made() -> bool:
            try:
                self._api.create_tag(repo, tag=tag, revision=commit)
            except HfHubHTTPError as error:
                if error.response.status_code != _TAKEN:
                    raise
                return False
            return True

        if self._ask(f"Tagging {repo} with {tag}", made):
            return commit
        return self.tags(repo).get(tag, commit)

    def titles(self, repo: str, commit: str) -> dict[str, str]:
        """The titles of `commit` and all before it, with the first commit that has each."""
        listed = self._ask(
            f"Reading the commits of {repo}",
            lambda: self._api.list_repo_commits(repo, revision=commit),
        )
        return {made.title: made.commit_id for made in listed}

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """What `call` gives, tried again while the Hub fails for the moment."""
        with self._sentences(doing):
            return patience.repeat(call)

    @contextmanager
    def _sentences(self, doing: str) -> Iterator[None]:
        patience.limit(self._answer_s)
        try:
            yield
        except AdapteryError:
            raise
        except HFValidationError as error:
            raise InvalidName(f"The Hub does not take this name: {error}") from error
        except (TransportError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._error(doing, error) from error

    def _error(self, doing: str, error: Exception) -> RegistryError:
        cause = patience.cause_of(error)
        said = _line(cause)
        if isinstance(cause, OSError) and cause.errno is not None:
            return RegistryError(f"{doing} failed on this machine: {said}.")
        hint = ""
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
            hint = "Log in with `hf auth login`, or set HF_TOKEN to a token that may do this."
        return RemoteError(
            join(f"{doing} failed on the Hub at {self._api.endpoint}: {said}.", hint)
        )


def _line(error: BaseException) -> str:
    """An error's text in one line, without its last full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _unsettled(error: TransportError) -> bool:
    """Whether a commit that ended so may have happened, or may happen if tried again."""
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (
        _TAKEN,
        _PRECONDITION_FAILED,
    ):
        return True
    return patience.passes(error)
