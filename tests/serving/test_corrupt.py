"""A file that no longer has its digest is never served, and the answer names it."""

import shutil
from pathlib import Path

import openai
import pytest

from adaptery.registry.gate.package import CONFIG, WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.serving.torch.engine import TorchEngine
from tests.adapters import package
from tests.serving.running import client, running_server

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def copied(adapter: Path, directory: Path) -> Path:
    """The files that are an adapter; PEFT writes a model card beside them."""
    directory.mkdir()
    for file in (CONFIG, WEIGHTS):
        shutil.copy(adapter / file, directory)
    return directory


def flip(path: Path) -> None:
    """Change the last bit of a file's weights."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_flipped_bit_is_refused_over_http_with_its_digest_named(base, config, adapters, tmp_path):
    registry = LocalRegistry.open(str(tmp_path / "registry"))
    for name in ("support", "news"):
        directory = copied(adapters["narrow" if name == "news" else "stable"], tmp_path / name)
        version = registry.publish(name, package(directory, base=base.identity))
    flip(registry.materialize(version) / WEIGHTS)
    broken = next(file.sha256 for file in version.manifest.files if file.path == WEIGHTS)
    with (
        running_server(TorchEngine(base, config, "thread"), registry, config) as address,
        client(address) as ask,
    ):
        with pytest.raises(openai.APIStatusError, match=f"expected sha256:{broken}"):
            ask.chat.completions.create(model="news", **HELLO)
        assert ask.chat.completions.create(model="support", **HELLO).choices


def test_a_file_that_is_damaged_while_serving_fails_its_own_requests_alone(
    base, config, adapters, tmp_path
):
    """One version in memory at a time: the other must be read again."""
    registry = LocalRegistry.open(str(tmp_path / "registry"))
    for name, adapter in {"support": "stable", "news": "narrow"}.items():
        directory = copied(adapters[adapter], tmp_path / name)
        version = registry.publish(name, package(directory, base=base.identity))
    one = config.model_copy(update={"max_adapters": 1})
    with (
        running_server(TorchEngine(base, one, "thread"), registry, one) as address,
        client(address) as ask,
    ):
        expected = ask.chat.completions.create(model="support", temperature=0, **HELLO).choices
        assert ask.chat.completions.create(model="news", **HELLO).choices
        assert ask.chat.completions.create(model="support", **HELLO).choices
        flip(registry.materialize(version) / WEIGHTS)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="could not be read again"):
                ask.chat.completions.create(model="news", **HELLO)
            again = ask.chat.completions.create(model="support", temperature=0, **HELLO)
            assert again.choices == expected
