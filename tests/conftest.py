"""What every test runs in: few threads, no setting of the developer's own, no Hub."""

import os
from pathlib import Path

# Before torch or the Hub's client is imported, here or in a subprocess. Matrices are tiny and the
# machine is shared; nobody listens on port 9.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_ENDPOINT": "http://127.0.0.1:9",
}

import pytest


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `ADAPTERS_…` variable of the shell that runs the tests."""
    for name in [name for name in os.environ if name.startswith("ADAPTERS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of 2 layers with a byte-level BPE tokenizer and the ChatML template."""
    from tests.models import write_tiny_base

    return write_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")
