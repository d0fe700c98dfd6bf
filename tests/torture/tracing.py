"""Deeds in forked children of a warm template, with strace between them and the kernel.

strace kills a child at a system call, or lets the call fail. It counts calls by their name and by
thread, so a point is a name and a count: the third `fsync`, the twelfth `pwrite64`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]

# Calls after which a file, a directory, a lock or a peer differs from before.
# fmt: off
CHANGES = frozenset([
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate",
    "fsync", "fdatasync", "sync_file_range", "rename", "renameat", "renameat2", "link", "linkat",
    "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "chmod", "fchmod",
    "fchmodat", "utimensat", "copy_file_range", "sendfile", "sendto", "sendmsg", "connect",
    "openat", "fcntl",
])
# fmt: on
_CALL = re.compile(r"(?m)^(?P<thread>\d+) +(?P<name>\w+)\((?P<arguments>.*)")
_ONLY_READING = {"openat": ("O_CREAT", "O_TRUNC"), "fcntl": ("F_SETLK",)}


@dataclass(frozen=True)
class Call:
    """The `count`-th call of this name by a thread; `arguments` as strace prints them."""

    name: str
    count: int
    arguments: str

    @property
    def changes(self) -> bool:
        """Whether the world may differ after it."""
        needed = _ONLY_READING.get(self.name)
        told = needed is None or any(flag in self.arguments for flag in needed)
        return self.name in CHANGES and told

    def touches(self, directory: Path) -> bool:
        """Whether it is about a file in `directory`."""
        return str(directory) in self.arguments

    def __str__(self) -> str:
        return f"{self.name} number {self.count}"


@dataclass(frozen=True)
class Outcome:
    """How a deed ended: exit status (negative: the signal that killed it), output, and calls."""

    status: int
    stdout: str
    stderr: str
    calls: Sequence[Call] = field(repr=False)

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Template:
    """A process that has imported everything and forks a child for each deed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.template"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)

    def warm(self, deed: str, arena: Path) -> Outcome:
        """Do the deed untraced; from now on every child has imported what it needed."""
        return self._run(deed, arena, [], warm=True)

    def count(self, deed: str, arena: Path, names: Iterable[str] = CHANGES) -> Outcome:
        """Do the deed and list its calls of these names."""
        return self._run(deed, arena, ["-e", f"trace={','.join(sorted(names))}"])

    def kill(self, deed: str, arena: Path, call: Call) -> Outcome:
        """Do the deed until just before this call, and die there."""
        return self._inject(deed, arena, call, "signal=KILL")

    def fail(
        self, deed: str, arena: Path, call: Call, error: str, *, for_good: bool = False
    ) -> Outcome:
        """Do the deed with this call failing; `for_good`: and all later ones of its name."""
        return self._inject(deed, arena, call, f"error={error}", "+" if for_good else "")

    def _inject(self, deed: str, arena: Path, call: Call, what: str, later: str = "") -> Outcome:
        when = f"inject={call.name}:{what}:when={call.count}{later}"
        return self._run(deed, arena, ["-e", f"trace={call.name}", "-e", when])

    def _run(
        self, deed: str, arena: Path, tracing: Sequence[str], *, warm: bool = False
    ) -> Outcome:
        stdout, stderr, log = (self._directory / name for name in ("stdout", "stderr", "log"))
        log.write_text("")
        pid = self._ask(
            deed=deed,
            arena=str(arena),
            stdout=str(stdout),
            stderr=str(stderr),
            warm=warm,
            environment=dict(os.environ),
        )
        tracer = _attach(pid, log, tracing) if tracing else None
        os.kill(pid, signal.SIGCONT)
        status = self._answer()
        if tracer is not None:
            tracer.wait(timeout=60)
        return Outcome(status, stdout.read_text(), stderr.read_text(), parse(log.read_text()))

    def _ask(self, **request: object) -> int:
        """Have a child forked, and stopped before it does anything. Returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def parse(log: str) -> list[Call]:
    """The calls in what `strace -f -y` printed, in order, each with its count in its thread."""
    seen: Counter[tuple[str, str]] = Counter()
    calls = []
    for match in _CALL.finditer(log):
        thread, name, arguments = match["thread"], match["name"], match["arguments"]
        seen[thread, name] += 1
        calls.append(Call(name, seen[thread, name], arguments))
    return calls


def _attach(pid: int, log: Path, tracing: Sequence[str]) -> subprocess.Popen[str]:
    """Put strace between the stopped process `pid` and the kernel."""
    strace = shutil.which("strace")
    assert strace, "These tests need strace: install the package `strace`."
    tracer = subprocess.Popen(
        [strace, "-f", "-qq", "-y", "-s", "0", "-o", str(log), *tracing, "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while _tracer_of(pid) == 0:
        if tracer.poll() is not None:
            os.kill(pid, signal.SIGKILL)
            said = tracer.stderr.read() if tracer.stderr else ""
            raise AssertionError(
                f"strace cannot trace here, and without it nothing can be killed at a system call. "
                f"Allow ptrace (for Docker: --cap-add SYS_PTRACE). It said: {said}"
            )
        time.sleep(0.001)
    return tracer


def _tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])
