"""The tiny base's tokenizer and model, and a training run in a few lines."""

from pathlib import Path

import pytest

from adaptery.base_model import LocalBase, open_base
from adaptery.trainers.encoding import Encoder


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> LocalBase:
    return open_base(str(tiny_base))


@pytest.fixture(scope="session")
def encoder(base: LocalBase) -> Encoder:
    return Encoder(base.tokenizer)
