"""A tiny random base with the tokenizer that `examples/make_tiny_base.py` makes, for training."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tests.serving.models import SHAPE

RECIPE = Path(__file__).parents[1] / "examples" / "make_tiny_base.py"
WORDS = (
    "which colour has the sky in spring\n\nthe sky is blue and the sun is yellow\n\n"
    "a tool for reading writing and merging compressed files on the command line\n\n"
)
VOCABULARY = 384


def recipe() -> ModuleType:
    """The script that makes the base model of the project."""
    spec = importlib.util.spec_from_file_location("make_tiny_base", RECIPE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML's template and `<|im_end|>` as end token."""
    return recipe().train_tokenizer([WORDS] * 20, VOCABULARY)


def write_tiny_base(directory: Path, seed: int = 0, **changes: Any) -> Path:
    """A random Qwen2 with that tokenizer; another `seed` makes another model of the same shape."""
    import torch

    tokenizer = make_tokenizer()
    own = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    shape = SHAPE | own | {"tie_word_embeddings": True}
    torch.manual_seed(seed)
    Qwen2ForCausalLM(Qwen2Config(**shape | changes)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_rows(path: Path, conversations: list[list[tuple[str, str]]]) -> Path:
    """JSON Lines of conversations given as (role, content) pairs."""
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in conversation]}
        for conversation in conversations
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pairs(path: Path, count: int, start: int = 0) -> Path:
    """JSON Lines of two texts and whether they belong together, which every third pair does and its
    second text tells."""
    rows = [
        {
            "text1": f"{'sky ' * (n % 4)}{n}",
            "text2": "red" if n % 3 else "blue",
            "label": int(n % 3 == 0),
        }
        for n in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
