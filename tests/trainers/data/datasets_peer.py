"""A Hub peer for data sets: what `datasets` asks of it, over HTTP, and nothing else."""

import hashlib
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "c0ffee" + "0" * 34
Repos = dict[str, dict[str, bytes]]  # data set → path → content


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """The bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


class DatasetsPeer:
    """`with DatasetsPeer({"org/name": {"data/train.parquet": b"…"}}) as peer: peer.url`."""

    def __init__(self, repos: Repos) -> None:
        self.requests: list[str] = []
        handler = type("BoundHandler", (Handler,), {"repos": repos, "requests": self.requests})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    repos: ClassVar[Repos]
    requests: ClassVar[list[str]]
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self.send_file(match[1], match[2])
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            return self.send_json(self.about(match[1]))
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            return self.send_json(self.tree(match[1], match[2]))
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", path):
            return self.send_json(self.paths(match[1]))
        return self.send(404)

    def about(self, repo: str) -> Any:
        if repo not in self.repos:
            return None
        files = [{"rfilename": path} for path in self.repos[repo]]
        flags = {"private": False, "disabled": False, "gated": False, "tags": []}
        return {"_id": "1", "id": repo, "sha": COMMIT, "siblings": files, **flags}

    def tree(self, repo: str, folder: str) -> Any:
        """What stands in a folder, one level deep."""
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in self.repos[repo] if path.startswith(prefix)]
        names = {path[len(prefix) :].split("/")[0] for path in inside}
        return [self.entry(repo, prefix + name) for name in sorted(names)]

    def paths(self, repo: str) -> Any:
        asked = self.body.decode()
        wanted = json.loads(asked) if asked.startswith("{") else parse_qs(asked)
        return [self.entry(repo, path) for path in wanted["paths"] if path in self.repos[repo]]

    def entry(self, repo: str, path: str) -> Any:
        content = self.repos[repo].get(path)
        if content is None:
            return {"type": "directory", "path": path, "oid": COMMIT, "size": 0}
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "oid": oid, "size": len(content)}

    def send_file(self, repo: str, path: str) -> None:
        content = self.repos.get(repo, {}).get(path)
        if content is None:
            code = "EntryNotFound" if repo in self.repos else "RepoNotFound"
            return self.send(404, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        tag = hashlib.sha1(content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self.send(200, content, headers)
        start, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        return self.send(206, content[start : last + 1], headers)

    def send_json(self, value: Any) -> None:
        if value is None:
            return self.send(404, headers={"X-Error-Code": "RepoNotFound"})
        return self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
