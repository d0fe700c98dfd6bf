"""Servers in processes of their own: started, found ready, ended with all their children."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from examples.quickstart import free_port

ADAPTERS = str(Path(sys.executable).parent / "adapters")
BASE = "base"  # the name that the base answers to
CORES = len(os.sched_getaffinity(0))
PATIENCE_S = 300.0
# As much for both engines: 1 GB of keys and values, 16 requests at a time.
KV_BYTES, SEQUENCES, CONTEXT = 1 << 30, 16, 4096


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    url: str
    process: "subprocess.Popen[bytes]"
    ready_s: float
    """Seconds from the start of the process until it said that it is ready."""

    def memory(self) -> int:
        """Bytes that the process and its children hold; what they share is counted once."""
        import psutil

        leader = psutil.Process(self.process.pid)
        family = [leader, *leader.children(recursive=True)]
        return sum(member.memory_full_info().pss for member in family)


@contextmanager
def adaptery(work: Path, registry: str = "registry", **options: object) -> Iterator[Server]:
    """`adapters serve` on all cores, its options as `--kebab-case` flags."""
    port = free_port()
    chosen = {
        "kv_memory": KV_BYTES,
        "adapter_memory": "1GB",
        "max_adapters": 48,
        "max_sequences": SEQUENCES,
        "max_context": CONTEXT,
    } | options
    command = [ADAPTERS, "serve", "--base", str(work / "base"), "--served-name", BASE]
    command += ["--registry", str(work / registry), "--port", str(port)]
    command += ["--dtype", "bfloat16", "--threads", str(CORES)]
    for option, value in chosen.items():
        flag = f"--{option.replace('_', '-')}"
        if flag in known_flags():
            command += [flag, str(value)]
    with running(command, port, "/ready", work / f"serve-{registry}.log") as server:
        yield server


@cache
def known_flags() -> str:
    """The help of `adapters serve`: options that an engine does not have are not given."""
    return subprocess.run([ADAPTERS, "serve", "--help"], capture_output=True, text=True).stdout


@contextmanager
def vllm(
    work: Path, home: Path, adapters: Sequence[str] = (), rank: int = 8, *, compiled: bool = False
) -> Iterator[Server]:
    """vLLM on the CPU from the environment `home`, at its best settings there."""
    port = free_port()
    command = [str(home / "bin" / "vllm"), "serve", str(work / "base"), "--port", str(port)]
    command += ["--served-model-name", BASE, "--dtype", "bfloat16"]
    command += ["--max-num-seqs", str(SEQUENCES), "--max-model-len", str(CONTEXT)]
    if not compiled:
        command.append("--enforce-eager")
    if adapters:
        command += ["--enable-lora", "--max-loras", "8", "--max-lora-rank", str(rank)]
        command += ["--lora-modules", *(f"{name}={work / 'adapters' / name}" for name in adapters)]
    preloaded = [home / "lib" / "libiomp5.so", *home.glob("usr/lib/*/libtcmalloc_minimal.so.4")]
    environment = {
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
        "VLLM_CACHE_ROOT": str(work / "vllm-cache"),  # of what it compiles
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "LD_PRELOAD": ":".join(str(path) for path in preloaded if path.exists()),
    }
    log = work / f"vllm-{rank if adapters else 'base'}.log"
    with running(command, port, "/health", log, environment) as server:
        yield server


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    ready: str,
    log: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Run `command` meanwhile; `ready` is the path that answers 200 once it serves."""
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=plain_environment() | (environment or {}),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait(url + ready, process, log)
        yield Server(url, process, time.perf_counter() - began)
    finally:
        end(process)


def plain_environment() -> dict[str, str]:
    """The environment without advice about threads: each engine has its own way with them."""
    return {key: v for key, v in os.environ.items() if not key.startswith(("OMP_", "KMP_", "MKL_"))}


def wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until `url` answers 200. Raises `SystemExit` with the end of the log if it never does."""
    until = time.monotonic() + PATIENCE_S
    with httpx.Client(timeout=5, trust_env=False) as client:  # a new one takes 25 ms of a core
        while time.monotonic() < until and process.poll() is None:
            with suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.02)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise SystemExit(f"{process.args!r} did not become ready; its last words:\n{tail}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to stop; after 20 seconds end it and whatever it has started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the session that it leads, and nothing else
    process.wait()
