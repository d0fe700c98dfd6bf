"""What is served: a random base of Qwen2.5-0.5B's shape, random adapters, registries of them.

::

    WORK/base              bf16, vocabulary 32,000, tied embeddings
    WORK/adapters/r8-00 …  32 of rank 8 (9 MB each), 16 of rank 16, on all linear layers
    WORK/registry          1,000 adapters: those, and copies of rank 8 under other names
    WORK/registry-8        only the eight of the row `8 adapters`

All of it is made in code, nothing is downloaded, and what is there already stays.
"""

import json
import os
import string
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

from adaptery.base_model import open_base
from adaptery.registry.gate.package import build_files
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterPackage, Manifest

VOCABULARY = 32_000
END = 0  # the end token: its row is zero, and the best score far above, so it never wins
FIRST = 2 + 95  # the first token that is several letters
LAYERS, HIDDEN, INTERMEDIATE, KV_WIDTH = 24, 896, 4864, 128
LINEAR = {  # (in, out)
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KV_WIDTH),
    "self_attn.v_proj": (HIDDEN, KV_WIDTH),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
    "mlp.up_proj": (HIDDEN, INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}
STD = 0.02  # of the base's weights
CHANGE = 0.2  # of an adapter's change of a layer, in times the layer's own
SHARPNESS = 8.0  # the last norm's weight: with 1 the scores of all tokens are nearly equal
REGISTERED = 1000
R8 = [f"r8-{n:02d}" for n in range(32)]
R16 = [f"r16-{n:02d}" for n in range(16)]


def mixed(count: int) -> list[str]:
    """`count` adapters, of rank 16 and of rank 8 in turn."""
    return [name for pair in zip(R16, R8, strict=False) for name in pair][:count]


def make(work: Path) -> None:
    """Everything that the head of this file lists."""
    once(work / "base", write_base)
    for rank, names in ((8, R8), (16, R16)):
        for seed, name in enumerate(names):
            once(work / "adapters" / name, write_adapter, rank, 1000 * rank + seed, work / "base")
    once(work / "registry-8", fill, work, {name: name for name in mixed(8)})
    more = {f"more-{n:03d}": R8[n % 32] for n in range(REGISTERED - len(R8) - len(R16))}
    once(work / "registry", fill, work, {name: name for name in [*R8, *R16]} | more)


def once(folder: Path, write: Callable[..., None], *arguments: object) -> None:
    """Let `write` make `folder`, unless it is there; half of it never is."""
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True)
        write(draft, *arguments)
        draft.rename(folder)


def write_base(folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=INTERMEDIATE,
        vocab_size=VOCABULARY,
        max_position_embeddings=32_768,
        initializer_range=STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.model.norm.weight.data.fill_(SHARPNESS)
    model.model.embed_tokens.weight.data[:FIRST] = 0  # nor does a lone character ever win
    model.save_pretrained(folder)
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE; every token is text by itself, and no two are the same text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, merges = words()
    vocabulary = {text: number for number, text in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=tokens[END], pad_token=tokens[END]
    ).save_pretrained(folder)


def words() -> tuple[list[str], list[tuple[str, str]]]:
    """The vocabulary, and how each word of several letters is merged from two others."""
    letters = ["Ġ" if c == " " else c for c in string.printable[:95]]
    syllables = list(product("bcdfghjklmnpqrstvwxyz"[:20], "aeiou"))
    single = ["".join(pair) for pair in syllables]
    double = list(product(single, single))
    spaced = [("Ġ", a + b) for a, b in double]
    triple = [(a + b, c) for (a, b), c in product(double, single)]
    merges = [*syllables, *double, *spaced, *triple][: VOCABULARY - FIRST]
    return ["<|end|>", "<|unused|>", *letters, *(a + b for a, b in merges)], merges


def write_adapter(folder: Path, rank: int, seed: int, base: Path) -> None:
    """A random adapter that changes every linear layer by `CHANGE` of itself."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, (name, (width, out)) in product(range(LAYERS), LINEAR.items()):
        key = f"base_model.model.model.layers.{layer}.{name}"
        a = torch.randn(rank, width, generator=random) * width**-0.5
        # scale · B A has entries of spread 2 · √rank · width^-½ · spread of B
        b = torch.randn(out, rank, generator=random) * CHANGE * STD * (width / rank) ** 0.5 / 2
        tensors[f"{key}.lora_A.weight"] = a.to(torch.bfloat16)
        tensors[f"{key}.lora_B.weight"] = b.to(torch.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted(name.partition(".")[2] for name in LINEAR),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def fill(folder: Path, work: Path, names: Mapping[str, str]) -> None:
    """A registry of `names`, each with the files of the adapter that it maps to."""
    base = open_base(str(work / "base")).identity
    registry = LocalRegistry.open(str(folder))
    registry.init()
    files = {made: build_files(work / "adapters" / made) for made in set(names.values())}
    for seed, (name, made) in enumerate(names.items()):
        # The seed makes each a version of its own; equal files are kept once.
        manifest = Manifest(files=files[made], base=base, method="lora", seed=seed)
        registry.publish(name, AdapterPackage(work / "adapters" / made, manifest))
