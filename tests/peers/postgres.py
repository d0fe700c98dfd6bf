"""A PostgreSQL server of the tests' own: an empty cluster, a loopback port, gone afterwards."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

# What is lost when the machine loses power is of no interest here; what a killed client leaves is.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "shared_buffers": "32MB",
    "autovacuum": "off",
}
MISSING = (
    "These tests need PostgreSQL's server programs, and found none in /usr/lib/postgresql/*/bin or "
    "on PATH. Install them, as .ci/run does: apt-get install --no-install-recommends postgresql"
)
PASSWORD = "s3cret/pw"  # a character that URLs must escape


class PostgresPeer:
    """A running server. As root, it runs as the user `postgres`, because it refuses root."""

    def __enter__(self) -> Self:
        self._bin = server_programs()
        self._as = unprivileged_user()
        self._home = Path(tempfile.mkdtemp(prefix="adaptery-postgres-"))
        if self._as:
            os.chown(self._home, pwd.getpwnam(self._as).pw_uid, -1)
        password = self._home / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            *("initdb", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"),
            # A language in which names do not sort by their bytes, as many servers have one.
            *("--locale-provider=icu", "--icu-locale=en-US"),
            *("--auth=scram-sha-256", "--username=adaptery", f"--pwfile={password}"),
            *("--pgdata", str(self._home / "data")),
        )
        self.port = free_port()
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.send_signal(signal.SIGQUIT)  # at once: nobody needs what it holds
        self._server.wait()
        shutil.rmtree(self._home)

    def url(self, database: str, password: str = PASSWORD) -> str:
        """The address of a database, for libpq and for us."""
        escaped = password.replace("/", "%2F")
        return f"postgresql://adaptery:{escaped}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database and return its address."""
        self._execute(f'CREATE DATABASE "{database}" STRATEGY file_copy')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _start(self) -> None:
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        self._server = subprocess.Popen(
            [
                str(self._bin / "postgres"),
                *("-D", str(self._home / "data"), "-p", str(self.port), "-k", str(self._home)),
                *settings,
            ],
            user=self._as,
            preexec_fn=die_with_parent,
            stdout=(self._home / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 30
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self._home / 'log').read_text()}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        asked = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            user=self._as,
            cwd=self._home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


def server_programs() -> Path:
    """Where `initdb` and `postgres` are: the newest of Debian's, else those on PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    on_path = shutil.which("initdb")
    found = [*debian[-1:], *([Path(on_path).resolve().parent] if on_path else [])]
    for directory in found:
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise RuntimeError(MISSING)


def unprivileged_user() -> str | None:
    """Whom to run the server as: ourselves (None), unless we are root."""
    return "postgres" if os.geteuid() == 0 else None


def die_with_parent() -> None:
    """Let the server stop if the tests are killed before they can stop it (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
