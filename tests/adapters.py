"""Small valid adapters for tests: random LoRA matrices, their configuration and their manifest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adaptery.registry.gate.package import CONFIG, WEIGHTS, build_files
from adaptery.types import AdapterPackage, BaseIdentity, Manifest

BASE = BaseIdentity(id="examples/tiny-base", digest="b" * 64)
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")


def make_adapter(
    directory: Path,
    *,
    seed: int = 0,
    r: int = 4,
    width: int = 16,
    modules: Sequence[str] = MODULES,
    base: BaseIdentity = BASE,
    metrics: Mapping[str, float] | None = None,
    **config: Any,
) -> AdapterPackage:
    """A LoRA adapter in `directory`, made if need be. Another `seed` makes another adapter.

    A is (r, width) and B (width, r), in F32. `config` overrides `adapter_config.json`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory, lora_tensors(modules, r, width, seed))
    write_config(
        directory, r=r, target_modules=sorted({m.split(".")[-1] for m in modules}), **config
    )
    return package(directory, base=base, seed=seed, metrics=dict(metrics or {}))


def lora_tensors(
    modules: Sequence[str] = MODULES, r: int = 4, width: int = 16, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random A and B for each module, named as PEFT names them."""
    random = np.random.default_rng(seed)
    tensors = {}
    for module in modules:
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(r, width)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = random.normal(size=(width, r)).astype(np.float32)
    return tensors


def write_weights(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, directory / WEIGHTS)


def write_config(directory: Path, **config: Any) -> None:
    """`adapter_config.json` of a plain LoRA, with `config` on top."""
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE.id,
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }
    (directory / CONFIG).write_text(json.dumps({**plain, **config}, indent=2))


def package(directory: Path, *, base: BaseIdentity = BASE, **manifest: Any) -> AdapterPackage:
    """What is in `directory` now, with a manifest that names it."""
    files = build_files(directory)
    return AdapterPackage(directory, Manifest(files=files, base=base, method="lora", **manifest))
