"""An adapter is applied in full or refused, and the refusal says why."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from adaptery.errors import InvalidAdapter
from adaptery.serving.torch.declaration import Declaration
from adaptery.serving.torch.lora import Adapter
from adaptery.serving.torch.tensorfile import all_finite
from adaptery.serving.torch.weights import AdapterReader
from tests.serving import models

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base_model(base_directory: Path):
    return models.load_base(base_directory)


@pytest.fixture(scope="module")
def layers(base_model) -> dict[str, torch.nn.Linear]:
    return {
        name: layer
        for name, layer in base_model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    }


@pytest.fixture
def adapter(tmp_path: Path, adapters: dict[str, Path]) -> Path:
    """A good adapter of rank 2 on q_proj and v_proj, to be spoilt."""
    return Path(shutil.copytree(adapters["narrow"], tmp_path / "adapter"))


def read(directory: Path, layers, dtype=torch.float32) -> Adapter:
    return AdapterReader(layers, dtype, torch.device("cpu")).open("a@1", directory).read()


def spoil(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors")


def test_the_scaling_is_folded_into_b(adapters, layers):
    narrow = read(adapters["narrow"], layers)
    stored = load_file(adapters["narrow"] / "adapter_model.safetensors")
    factors = narrow.layers["model.layers.0.self_attn.q_proj"]
    assert torch.equal(factors.a, stored[f"{Q0}.lora_A.weight"])
    assert torch.equal(factors.b, stored[f"{Q0}.lora_B.weight"] * 2)  # alpha 4, rank 2


def test_every_layer_has_its_own_rank_and_nothing_is_padded(adapters, layers):
    mixed = read(adapters["mixed"], layers)
    ranks = {name.split("layers.")[1]: len(f.a) for name, f in mixed.layers.items()}
    assert ranks["0.mlp.down_proj"] == 7
    assert ranks["0.mlp.up_proj"] == 4
    assert ranks["1.mlp.up_proj"] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [4, 3.7])
def test_numbers_are_scaled_in_float32_and_rounded_once(adapter, layers, dtype, stored, alpha):
    models.edit_config(adapter, lora_alpha=alpha)
    spoil(adapter, lambda tensors: tensors.update({k: t.to(stored) for k, t in tensors.items()}))
    expected = load_file(adapter / "adapter_model.safetensors")
    for name, factors in read(adapter, layers, dtype).layers.items():
        a, b = (expected[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        assert torch.equal(factors.a, a.to(dtype))
        assert torch.equal(factors.b, (b.float() * (alpha / 2)).to(dtype))


def test_tensors_of_different_number_formats_in_one_file_are_all_read(adapter, layers):
    halves = lambda key: torch.bfloat16 if "lora_A" in key else torch.float32  # noqa: E731
    spoil(adapter, lambda tensors: tensors.update({k: t.to(halves(k)) for k, t in tensors.items()}))
    expected = load_file(adapter / "adapter_model.safetensors")
    factors = read(adapter, layers).layers["model.layers.0.self_attn.q_proj"]
    assert torch.equal(factors.a, expected[f"{Q0}.lora_A.weight"].float())
    assert torch.equal(factors.b, expected[f"{Q0}.lora_B.weight"] * 2)


def test_the_size_is_known_before_the_tensors_are_read(adapters, layers):
    for directory in adapters.values():
        for dtype in (torch.float32, torch.bfloat16):
            file = AdapterReader(layers, dtype, torch.device("cpu")).open("a@1", directory)
            assert file.nbytes == file.read().nbytes


def test_adapters_of_one_shape_have_their_own_declarations_and_numbers(adapter, layers, tmp_path):
    """What is remembered of a header is not taken for another's."""
    reader = AdapterReader(layers, torch.float32, torch.device("cpu"))
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    models.edit_config(other, lora_alpha=10)
    wrong = Path(shutil.copytree(adapter, tmp_path / "wrong"))
    models.edit_config(wrong, target_modules=["q_proj"])
    name = "model.layers.0.self_attn.q_proj"
    first, second = (reader.open("a", d).read().layers[name] for d in (adapter, other))
    assert torch.equal(first.b * 2.5, second.b)
    with pytest.raises(InvalidAdapter, match="not a declared target module"):
        reader.open("a", wrong)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"some_future_field": 3}, "some_future_field"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"r": 0}, "'r'"),
        ({"r": 3}, "declared rank"),
        ({"rank_pattern": {"q_proj": 4}}, "declared rank"),
        ({"target_modules": ["q_proj"]}, "not a declared target module"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "has no matrices"),
        ({"target_modules": "["}, "cannot be read"),
        ({"layers_to_transform": [0]}, "not a declared target module"),
        ({"target_modules": "all-linear", "layers_to_transform": [0]}, "to be a list"),
        ({"layers_pattern": ["layers"]}, "needs layers_to_transform"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_declaration_that_cannot_be_obeyed_is_refused(adapter, layers, changes, complaint):
    models.edit_config(adapter, **changes)
    with pytest.raises(InvalidAdapter, match=complaint):
        read(adapter, layers)


def set_tensor(key: str, value: torch.Tensor):
    return lambda tensors: tensors.update({key: value})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop(f"{Q0}.lora_A.weight"), "no matrix lora_A"),
        (lambda t: t.pop(f"{Q0}.lora_B.weight"), "no matrix lora_B"),
        (lambda t: t.clear(), "no tensors"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.ones(2, 32)), "shape"),
        (set_tensor(f"{Q0}.lora_B.weight", torch.ones(32, 2)), "shape"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.ones(3, 64)), "shape"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.full((2, 64), float("nan"))), "not finite"),
        (set_tensor(f"{Q0}.lora_B.weight", torch.full((64, 2), float("inf"))), "not finite"),
        (set_tensor(f"{Q0}.lora_A.weight", torch.ones(2, 64, dtype=torch.int32)), "I32"),
        (set_tensor("base_model.model.lm_head.weight", torch.ones(2)), "not a LoRA matrix"),
        (set_tensor(f"{Q0}.lora_magnitude_vector", torch.ones(2)), "not a LoRA matrix"),
        (set_tensor("whatever", torch.ones(2)), "not a LoRA matrix"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(adapter, layers, change, complaint):
    spoil(adapter, change)
    with pytest.raises(InvalidAdapter, match=complaint):
        read(adapter, layers)


def rename(old: str, new: str):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if old in key]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [("layers.1.", "layers.7."), ("model.model.layers", "model.transformer.h"), ("q_proj", "wq")],
)
def test_layers_that_the_base_does_not_have_are_refused(adapter, layers, old, new):
    spoil(adapter, rename(old, new))
    with pytest.raises(InvalidAdapter, match="no linear layer"):
        read(adapter, layers)


def test_an_adapter_of_the_output_layer_is_refused(tmp_path, base_directory, layers):
    directory = models.write_adapter(
        tmp_path, base_directory, 0, r=2, target_modules=["q_proj", "lm_head"]
    )
    with pytest.raises(InvalidAdapter, match="lm_head"):
        read(directory, layers)


def test_an_adapter_of_the_embedding_is_refused(tmp_path, base_directory, layers):
    directory = models.write_adapter(
        tmp_path, base_directory, 0, r=2, target_modules=["q_proj", "embed_tokens"]
    )
    with pytest.raises(InvalidAdapter, match="embed"):
        read(directory, layers)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        AdaLoraConfig(init_r=4, target_modules=["q_proj"], total_step=10),
    ],
    ids=["dora", "modules_to_save", "adalora"],
)
def test_what_peft_saves_of_other_methods_is_refused(tmp_path, base_directory, layers, config):
    get_peft_model(models.load_base(base_directory), config).save_pretrained(tmp_path)
    with pytest.raises(InvalidAdapter):
        read(tmp_path, layers)


def test_numbers_too_large_for_the_number_format_are_refused(adapter, layers):
    spoil(adapter, set_tensor(f"{Q0}.lora_A.weight", torch.full((2, 64), 1e6)))
    assert read(adapter, layers)
    with pytest.raises(InvalidAdapter, match="float16"):
        read(adapter, layers, torch.float16)


def header_of(weights: Path) -> dict[str, Any]:
    data = weights.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def write_header(weights: Path, header: object) -> None:
    data, text = weights.read_bytes(), json.dumps(header).encode()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    weights.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"data_offsets": [0, 8]}, "not its shape"),
        ({"data_offsets": [4, 516]}, "overlaps the tensor before it or leaves a gap"),
        ({"data_offsets": [-512, 0]}, "malformed"),
        ({"shape": [2.0, 64]}, "malformed"),
        ({"shape": None}, "malformed"),
        ({"dtype": "F8_E4M3"}, "F8_E4M3"),
    ],
)
def test_a_header_that_lies_is_refused(adapter, layers, change, complaint):
    weights = adapter / "adapter_model.safetensors"
    header = header_of(weights)
    header[f"{Q0}.lora_A.weight"] |= change
    write_header(weights, header)
    with pytest.raises(InvalidAdapter, match=complaint):
        read(adapter, layers)


@pytest.mark.parametrize("header", [[], "text", {"a": 3}, {"a": {}}])
def test_a_header_that_is_none_is_refused(adapter, layers, header):
    write_header(adapter / "adapter_model.safetensors", header)
    with pytest.raises(InvalidAdapter, match="malformed"):
        read(adapter, layers)


def test_a_file_that_is_cut_off_between_its_header_and_its_tensors_is_refused(adapter, layers):
    file = AdapterReader(layers, torch.float32, torch.device("cpu")).open("a@1", adapter)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(InvalidAdapter, match="ends 5 bytes too early"):
        file.read()


@given(
    numbers=st.lists(st.floats(width=32), min_size=1, max_size=20),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_finite_numbers_are_told_from_others(numbers, dtype):
    tensor = torch.tensor(numbers).to(dtype)
    assert all_finite(tensor) == bool(tensor.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_16_bits_is_known_as_finite_or_not(dtype):
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    assert [all_finite(one) for one in numbers.split(16)] == [
        bool(one.isfinite().all()) for one in numbers.split(16)
    ]


MODULES = [
    f"model.layers.{i}.{part}.{name}"
    for i in (0, 1, 2, 11)
    for part, name in [("self_attn", "q_proj"), ("mlp", "up_proj"), ("mlp.experts.1", "w1")]
] + ["lm_head", "q_proj", "model.q_proj"]
NAMES = st.sampled_from(
    ["q_proj", "up_proj", "w1", "proj", "experts.1.w1", "model.layers.1.mlp.up_proj", "lm_head"]
)
PATTERNS = st.sampled_from(
    [r".*_proj", r".*layers\.[02]\..*", r"q_proj", r"(model\.)?q_proj", r"layers\.\d+", "mlp", ""]
)


@given(
    target=st.lists(NAMES, min_size=1, max_size=3) | PATTERNS,
    exclude=st.none() | st.lists(NAMES, max_size=2) | PATTERNS,
    layers=st.none() | st.integers(0, 3) | st.lists(st.integers(0, 11), max_size=2),
    pattern=st.none() | st.sampled_from(["layers", "experts", "h", ["h", "layers"], [], "lay.*"]),
    ranks=st.dictionaries(PATTERNS | NAMES, st.integers(1, 9), max_size=3),
)
def test_layers_are_matched_by_the_rules_of_peft(target, exclude, layers, pattern, ranks):
    rules = {
        "target_modules": target,
        "exclude_modules": exclude,
        "layers_to_transform": layers,
        "layers_pattern": pattern,
    }
    given_ = {key: value for key, value in rules.items() if value is not None}
    declared = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "rank_pattern": ranks, **given_}
    try:
        peft = LoraConfig(**rules)
    except ValueError:
        with pytest.raises(ValueError, match="needs"):
            Declaration.model_validate(declared)
        return
    ours = Declaration.model_validate(declared)
    expected = {module for module in MODULES if check_target_module_exists(peft, module)}
    assert ours.targets(MODULES) == expected
    for module in MODULES:
        assert ours.rank(module) == ranks.get(get_pattern_key(list(ranks), module), 1)


LONELY = """
import json, os, sys
from pathlib import Path
import torch
from adaptery.serving.torch.store import AdapterStore
from adaptery.serving.torch.weights import AdapterReader

directory, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
torch.set_num_threads(4)
layers = {"layers.0.up_proj": torch.nn.Linear(20_000, 20_000, bias=False, device="meta")}
before = len(os.listdir("/proc/self/task"))
adapter = AdapterReader(layers, dtype, torch.device("cpu")).open("a@1", directory).read()
threads = len(os.listdir("/proc/self/task")) - before
imported = [name for name in ("peft", "transformers", "accelerate") if name in sys.modules]
print(json.dumps([len(adapter.layers), threads, imported]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="tells threads by /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_reading_takes_one_thread_and_does_not_import_peft(tmp_path, dtype):
    """Other threads would take their cores from the step; PEFT takes a second to import."""
    declared = {"peft_type": "LORA", "r": 8, "lora_alpha": 20, "target_modules": ["up_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(declared))
    name = "base_model.model.layers.0.up_proj.lora_{}.weight"
    a, b = torch.randn(8, 20_000), torch.randn(20_000, 8)
    stored = {name.format("A"): a.bfloat16(), name.format("B"): b.bfloat16()}
    save_file(stored, tmp_path / "adapter_model.safetensors")
    command = [sys.executable, "-c", LONELY, str(tmp_path), dtype]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [1, 0, []]


def test_damaged_files_are_refused(adapter, layers):
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(InvalidAdapter):
        read(adapter, layers)
    weights.unlink()
    with pytest.raises(InvalidAdapter):
        read(adapter, layers)
    weights.write_bytes(content)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(InvalidAdapter):
        read(adapter, layers)
