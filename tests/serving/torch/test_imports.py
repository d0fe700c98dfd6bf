"""What the worker's process leaves out when it imports, and that nothing is missing afterwards."""

import os
import subprocess
import sys

import pytest

from adaptery.serving.torch.imports import QUIET, without

WORKER = """
import sys
from adaptery.serving.torch.process import lightly

with lightly():
    import adaptery.serving.torch.assembly
    from transformers import AutoModelForCausalLM
    from transformers.models.qwen2 import modeling_qwen2
left_out = {"sympy", "sklearn", "accelerate", "torch._dynamo", "torch.distributed.tensor"}
assert not left_out & set(sys.modules), left_out & set(sys.modules)

import accelerate, torch
assert torch.distributed.is_available()
twice = torch.compile(lambda x: 2 * x, backend="eager")
assert twice(torch.ones(2)).tolist() == [2, 2]
assert sys.modules["torch._dynamo"].convert_frame
"""

SERVER = """
import sys
from pathlib import Path
from adaptery.base_model import open_base
from adaptery.serving.torch.imports import UNUSED, loading
from adaptery.serving.prompts import encode, render_chat

base = open_base(sys.argv[1])
with loading("torch", *UNUSED):
    base.tokenizer
assert "torch" not in sys.modules
asked = render_chat(base, [dict(role="user", content="a")], None)
print([*encode(base, "hello", special=True), *asked])
"""


def run(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_the_worker_loads_no_compiler_and_can_have_it_afterwards():
    run(WORKER)


def test_the_server_makes_the_same_tokens_without_torch(base, base_directory):
    tokens = base.tokenizer("hello", add_special_tokens=True)["input_ids"]
    asked = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False
    )
    expected = [*tokens, *base.tokenizer(asked, add_special_tokens=False)["input_ids"]]
    assert run(SERVER, str(base_directory)) == f"{expected}\n"


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_left_as_it_was(monkeypatch, before):
    monkeypatch.delenv(QUIET, raising=False)
    if before is not None:
        monkeypatch.setenv(QUIET, before)
    with without("no_such_package"):
        assert os.environ[QUIET] == "1"
    assert os.environ.get(QUIET) == before
