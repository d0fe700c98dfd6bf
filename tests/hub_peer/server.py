"""The peer's HTTP server and its faults; what it answers is in `routes`."""

import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.hub_peer.faults import Trouble
from tests.hub_peer.repos import Store
from tests.hub_peer.routes import Handler


class HubPeer:
    """The peer: `with HubPeer(root) as peer: peer.url`. What it holds survives in `root`."""

    def __init__(self, root: Path, port: int = 0, token: str | None = None) -> None:
        self.token = token
        self.store = Store(root)
        self.faults: Counter[str] = Counter()
        self.troubles: list[Trouble] = []
        self.closing = threading.Event()
        self.requests: list[str] = []
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"peer": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        """Answer until `shutdown`."""
        self._server.serve_forever(poll_interval=0.05)

    def takes(self, fault: str) -> bool:
        """Whether to commit `fault` now."""
        with self.lock:
            if self.faults[fault] <= 0:
                return False
            self.faults[fault] -= 1
            return True

    def meet(self, request: str) -> Trouble | None:
        """The trouble that this request gets into, if any."""
        with self.lock:
            return next((each for each in self.troubles if each.meets(request)), None)

    def truncate(self, repo: str, path: str) -> None:
        """Lose the last byte of a file in the newest commit, which still says its old size."""
        blob = self.store.blob(self.store.repo(repo).head.files[path].sha256)
        blob.write_bytes(blob.read_bytes()[:-1])

    def foreign_commit(self, repo: str, path: str, data: bytes) -> None:
        """Somebody changes a file on the Hub's own pages."""
        with self.lock:
            found = self.store.repo(repo)
            files = {**found.head.files, path: self.store.regular(data)}
            found.add(f"Update {path}", "", files)
            self.store.save()

    def corrupt(self, repo: str, path: str) -> None:
        """Change one byte of a file in the newest commit, keeping its size."""
        blob = self.store.blob(self.store.repo(repo).head.files[path].sha256)
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
