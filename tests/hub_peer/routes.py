"""The Hub's paths that the client uses for publishing and pulling."""

import base64
import hashlib
import json
from fnmatch import fnmatch
from typing import Any

import yaml

from tests.hub_peer.dispatch import REPO, Dispatcher, DroppedError, route
from tests.hub_peer.faults import (
    CUT_DOWNLOAD,
    DROP_AFTER_COMMIT,
    DROP_BEFORE_COMMIT,
    NOT_YET_THERE,
    REFUSE_TAG,
    STALE_HEAD,
    STALE_PARENT,
)
from tests.hub_peer.repos import Commit, File, HubError, Repo, front_matter, git_id


class Handler(Dispatcher):
    """What the peer answers."""

    # Repositories

    @route("POST", "/api/repos/create")
    def create_repo(self) -> Any:
        wanted = self._json()
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.peer.url}/{name}"
        if name in self.store.repos:
            raise HubError(409, "You already created this model repo", url=url)
        repo = self.store.repos[name] = Repo(name, private=_is_private(wanted))
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        repo.add("initial commit", "", {".gitattributes": self.store.regular(attributes)})
        self.store.save()
        return {"url": url, "name": name, "id": name}

    @route("GET", "/api/models")
    def list_models(self) -> Any:
        author, filters = self.query.get("author"), self.query.get("filter", [])
        return [
            self._info(repo, repo.head)
            for repo in self.store.repos.values()
            if not (repo.private and self.anonymous)
            and (not author or repo.id.split("/")[0] == author[0])
            and set(filters) <= set(self.store.card(repo).get("tags", []))
        ]

    @route("GET", f"/api/models/{REPO}")
    def model_info(self, repo: str) -> Any:
        return self.model_info_at(repo, "main")

    @route("GET", f"/api/models/{REPO}/revision/(?P<revision>[^/]+)")
    def model_info_at(self, repo: str, revision: str) -> Any:
        if self.peer.takes(NOT_YET_THERE):
            raise HubError(404, "Repository not found", "RepoNotFound")
        found = self._repo(repo)
        return self._info(found, self._at(found, revision))

    @route("GET", f"/api/models/{REPO}/refs")
    def refs(self, repo: str) -> Any:
        found = self._repo(repo)
        head = self._at(found, "main")
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": head.id}
        unheard = {commit.id for commit in found.commits[found.commits.index(head) + 1 :]}
        tags = [
            {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
            for tag, commit in found.tags.items()
            if commit not in unheard
        ]
        return {"branches": [main], "converts": [], "tags": tags}

    @route("GET", f"/api/models/{REPO}/commits/(?P<revision>[^/]+)")
    def commits(self, repo: str, revision: str) -> Any:
        found = self._repo(repo)
        until = found.commits.index(self._at(found, revision)) + 1
        return [
            {
                "id": commit.id,
                "authors": [{"user": "peer"}],
                "date": commit.date,
                "title": commit.title,
                "message": commit.message,
            }
            for commit in reversed(found.commits[:until])
        ]

    @route("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/]+)")
    def tree(self, repo: str, revision: str) -> Any:
        return [
            {"type": "file", "path": path, "size": file.size, "oid": file.oid}
            for path, file in self._repo(repo).at(revision).files.items()
        ]

    @route("POST", f"/api/models/{REPO}/tag/(?P<revision>[^/]+)")
    def create_tag(self, repo: str, revision: str) -> Any:
        if self.peer.takes(REFUSE_TAG):
            raise HubError(403, "No tags today")
        found, tag = self._repo(repo), self._json()["tag"]
        if tag in found.tags:
            raise HubError(409, f"Tag reference exists already: {tag}")
        found.tags[tag] = found.at(revision).id
        self.store.save()
        return {}

    @route("DELETE", f"/api/models/{REPO}/tag/(?P<tag>[^/]+)")
    def delete_tag(self, repo: str, tag: str) -> Any:
        if self._repo(repo).tags.pop(tag, None) is None:
            raise HubError(404, f"No tag {tag}", "RevisionNotFound")
        self.store.save()
        return {}

    # Uploading

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> Any:
        try:
            front_matter(self._json()["content"])
        except yaml.YAMLError as error:
            raise HubError(400, f"Invalid metadata: {error}") from error
        return {"errors": [], "warnings": []}

    @route("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)")
    def preupload(self, repo: str, revision: str) -> Any:
        found = self._repo(repo)
        files = self._at(found, revision).files
        ignored = self._ignored(files)
        return {
            "files": [
                {
                    "path": entry["path"],
                    "uploadMode": "lfs" if entry["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": any(fnmatch(entry["path"], each) for each in ignored),
                    "oid": files[entry["path"]].oid if entry["path"] in files else None,
                }
                for entry in self._json()["files"]
            ]
        }

    @route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo: str) -> Any:
        self._repo(repo)
        answer = []
        for entry in self._json()["objects"]:
            wanted = {"oid": entry["oid"], "size": entry["size"]}
            if not self.store.blob(entry["oid"]).exists():
                href = f"{self.peer.url}/lfs/{entry['oid']}"
                verify = {"href": f"{href}/verify"}
                wanted["actions"] = {"upload": {"href": href}, "verify": verify}
            answer.append(wanted)
        return {"transfer": "basic", "objects": answer}

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "The bytes do not have this oid")
        self.store.write(self.body)
        return {}

    @route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify")
    def lfs_verify(self, oid: str) -> Any:
        if not self.store.blob(oid).exists():
            raise HubError(404, "No such object")
        return {}

    @route("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)")
    def commit(self, repo: str, revision: str) -> Any:
        if self.peer.takes(DROP_BEFORE_COMMIT):
            raise DroppedError
        found = self._repo(repo)
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        stale = header.get("parentCommit") not in (None, found.head.id)
        if stale or self.peer.takes(STALE_PARENT):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(found.head.files)
        for line in lines:
            self._apply(files, line["key"], line["value"])
        made = found.add(header["summary"], header.get("description", ""), files)
        self.store.save()
        if self.peer.takes(DROP_AFTER_COMMIT):
            raise DroppedError
        url = f"{self.peer.url}/{repo}/commit/{made.id}"
        return {"success": True, "commitOid": made.id, "commitUrl": url, "hookOutput": ""}

    def _apply(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = self.store.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[value["path"]] = self.store.large(value["oid"])
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key != "header":
            raise HubError(400, f"The peer does not know the operation {key}")

    # Downloading

    @route("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self._repo(repo)
        if found.gated:
            raise HubError(403, "Access to this model is restricted", "GatedRepo")
        commit = found.at(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.oid}"'}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
        self._send_file(self.store.blob(file.sha256).read_bytes(), headers)

    def _send_file(self, data: bytes, headers: dict[str, str]) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest, status = data[start:], 206 if start else 200
        if self.command == "GET" and self.peer.takes(CUT_DOWNLOAD):
            self._send(status, rest, headers, cut=True)
            raise DroppedError
        self._send(status, rest, headers)

    def _repo(self, name: str) -> Repo:
        """The repository, if whoever asks may see it."""
        repo = self.store.repo(name)
        if repo.private and self.anonymous:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        return repo

    def _at(self, repo: Repo, revision: str) -> Commit:
        """What a revision means; a peer that lags behind does not know the newest `main`."""
        if revision == "main" and len(repo.commits) > 1 and self.peer.takes(STALE_HEAD):
            return repo.commits[-2]
        return repo.at(revision)

    def _ignored(self, files: dict[str, File]) -> list[str]:
        file = files.get(".gitignore")
        return self.store.blob(file.sha256).read_text().split() if file else []

    def _info(self, repo: Repo, commit: Commit) -> dict[str, Any]:
        return {
            "id": repo.id,
            "modelId": repo.id,
            "sha": commit.id,
            "lastModified": commit.date,
            "tags": self.store.card(repo).get("tags", []),
            "private": repo.private,
            "siblings": [self._sibling(path, file) for path, file in commit.files.items()],
        }

    def _sibling(self, path: str, file: File) -> dict[str, Any]:
        if "blobs" not in self.query:
            return {"rfilename": path}
        if not file.lfs:
            return {"rfilename": path, "size": file.size, "blobId": file.oid}
        pointer = b"version https://git-lfs.github.com/spec/v1\n"
        pointer += b"oid sha256:%s\nsize %d\n" % (file.sha256.encode(), file.size)
        large = {"sha256": file.sha256, "size": file.size, "pointerSize": len(pointer)}
        return {
            "rfilename": path,
            "size": file.size,
            "blobId": git_id(pointer),
            "lfs": large,
        }


def _is_private(wanted: dict[str, Any]) -> bool:
    """Whether a new repository is to be private, as clients of version 1 and 2 say it."""
    return bool(wanted.get("private")) or wanted.get("visibility") == "private"
