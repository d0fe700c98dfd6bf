"""Compiling the kernels for this processor, once."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from adaptery.config import cache_directory
from adaptery.errors import EngineError

SOURCES = sorted(Path(__file__).parent.glob("*.[ch]*"))
MAIN = Path(__file__).parent / "kernels.cpp"
FLAGS = ("-std=c++20", "-O2", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC", "-shared")
WIDE = ("-mprefer-vector-width=512",)  # else GCC halves vectors on processors that were slow in it
PATIENCE = 120  # seconds


class NoKernels(EngineError):
    """They cannot be compiled here; the message says why."""


@cache
def compiled() -> Path:
    """The library, compiled if it is not yet there.

    Raises:
        NoKernels: there is no compiler, or it fails.
    """
    if sys.platform != "linux":
        raise NoKernels("they are compiled on Linux only")
    compiler = find_compiler()
    flags = (*FLAGS, *WIDE) if platform.machine() == "x86_64" else FLAGS
    path = cache_directory() / "kernels" / f"{fingerprint(compiler, flags)}.so"
    if not path.exists():
        build(compiler, flags, path)
    return path


def find_compiler() -> Path:
    """What `$CXX` names, else g++. Raises `NoKernels`."""
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise NoKernels(f"there is no {name}; install GCC's C++ compiler (Debian: g++)")
    return Path(found).resolve()


def fingerprint(compiler: Path, flags: tuple[str, ...]) -> str:
    """Differs wherever the library would."""
    state = compiler.stat()
    parts = [str(compiler), str(state.st_size), str(state.st_mtime_ns), *flags, processor()]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


def processor() -> str:
    """What the processor is and can: the lines that are the same on all cores."""
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def build(compiler: Path, flags: tuple[str, ...], path: Path) -> None:
    """Compile to `path`, where the library appears when it is complete. Raises `NoKernels`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as room:
            made = Path(room) / path.name
            command = [str(compiler), *flags, "-o", str(made), str(MAIN)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            if done.returncode:
                first = next((line for line in done.stderr.splitlines() if "error" in line), "")
                raise NoKernels(f"{compiler} fails with code {done.returncode}: {first}")
            os.replace(made, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernels(f"{compiler} cannot compile them: {error}") from error
