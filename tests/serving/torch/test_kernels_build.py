"""The kernels are compiled once, and never half; without a compiler everything goes on."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adaptery.base_model import LocalBase
from adaptery.config import cache_directory
from adaptery.serving.config import ServeConfig
from adaptery.serving.torch import assembly
from adaptery.serving.torch.kernels import build
from adaptery.serving.torch.kernels.build import NoKernels, compiled
from adaptery.serving.torch.kernels.calls import Kernels


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for them."""
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "caches"))
    monkeypatch.delenv("CXX", raising=False)
    compiled.cache_clear()
    yield cache_directory() / "kernels"
    compiled.cache_clear()


def compiler(tmp_path: Path, script: str) -> str:
    """A program in place of the compiler; its arguments end with `-o TARGET SOURCE`."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\nfor last; do target=$source; source=$last; done\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_they_are_compiled_once(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, f'echo >> {tmp_path}/calls; echo x > "$target"'))
    path = compiled()
    assert path.parent == caches
    assert list(caches.iterdir()) == [path]
    compiled.cache_clear()  # another process
    assert compiled() == path
    assert (tmp_path / "calls").read_text() == "\n"


def test_whatever_matters_is_in_the_name(caches: Path, monkeypatch: pytest.MonkeyPatch):
    found = build.find_compiler()
    names = {build.fingerprint(found, build.FLAGS), build.fingerprint(found, ("-O1",))}
    monkeypatch.setattr(build, "processor", lambda: "another")
    names.add(build.fingerprint(found, build.FLAGS))
    monkeypatch.setattr(build, "SOURCES", build.SOURCES[1:])
    names.add(build.fingerprint(found, build.FLAGS))
    assert len(names) == 4


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'k.cpp:1: error: no such thing' >&2; exit 3", "fails with code 3: .*no such thing"),
        ('echo half > "$target"; kill -9 $$', "fails with code -9"),
        ("exit 0", "cannot compile them"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing_behind(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
):
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    with pytest.raises(NoKernels, match=said):
        compiled()
    assert list(caches.iterdir()) == []


def test_a_library_that_cannot_be_loaded_is_told(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo nonsense > "$target"'))
    with pytest.raises(NoKernels, match="cannot be loaded"):
        Kernels(torch.float32, 2)


def test_a_cache_that_cannot_be_written_is_told(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "caches").write_text("a file")
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 0"))
    with pytest.raises(NoKernels, match="cannot compile them"):
        compiled()


def test_a_format_that_there_are_none_for():
    with pytest.raises(NoKernels, match=r"none for torch\.float16"):
        Kernels(torch.float16, 2)


@pytest.mark.usefixtures("caches")
def test_without_a_compiler_pytorch_computes_and_it_is_said(
    base: LocalBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("PATH", os.devnull)
    made = assembly.assemble(base, ServeConfig(base="b", kv_memory=10**7), lambda: None)
    made.store.close()
    assert made.decoder.kernels is None
    assert made.started().state["kernels"] == "torch"
    assert "there is no g++; install GCC's C++ compiler" in caplog.text


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_they_can_be_left_out(base: LocalBase, kernels: str):
    config = ServeConfig(base="b", kv_memory=10**7, kernels=kernels)
    made = assembly.assemble(base, config, lambda: None)
    made.store.close()
    assert made.started().state["kernels"] == ("own" if kernels == "auto" else "torch")
    assert (made.decoder.kernels is None) == (kernels == "off")
