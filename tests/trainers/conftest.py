"""The tiny base's tokenizer and model, and a training run in a few lines."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from adaptery.base_model import LocalBase, open_base
from adaptery.trainers.data.rows import Conversation, Message
from adaptery.trainers.encoding import Encoder, Example
from adaptery.trainers.run_directory import RunDirectory

COLOURS = ("blue", "yellow", "red")


def conversations(count: int = 24) -> list[Conversation]:
    """Questions of many lengths with few answers; every fourth has two turns."""
    rows = []
    for n in range(count):
        earlier = [("user", "which colour"), ("assistant", "the sky")] if n % 4 == 0 else []
        turns = [*earlier, ("user", f"{'the sky ' * (n % 5)}{n}"), ("assistant", COLOURS[n % 3])]
        rows.append(Conversation(tuple(Message(*turn) for turn in turns), f"rows.jsonl:{n + 1}"))
    return rows


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as all else in a tiny run; what draws is tested on its own."""
    monkeypatch.setattr(RunDirectory, "plot", lambda self: None)


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> LocalBase:
    return open_base(str(tiny_base))


@pytest.fixture(scope="session")
def encoder(base: LocalBase) -> Encoder:
    return Encoder(base.tokenizer)


@pytest.fixture
def model(base: LocalBase) -> PreTrainedModel:
    """The tiny base in fp32, ready to answer."""
    return AutoModelForCausalLM.from_pretrained(base.directory, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def examples(encoder: Encoder) -> list[Example]:
    """Rows of many lengths, some of several turns."""
    return [encoder.encode(conversation) for conversation in conversations()]
