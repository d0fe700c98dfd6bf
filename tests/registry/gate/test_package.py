"""The gate: what is an adapter, and everything that is not."""

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptery.errors import CorruptFile, InvalidAdapter
from adaptery.registry.gate.package import CONFIG, TEMPLATE, WEIGHTS, build_files, check_package
from adaptery.registry.gate.tensorfile import check_finite, read_header
from adaptery.types import AdapterPackage, FileEntry, Manifest
from tests.adapters import (
    BASE,
    MODULES,
    lora_tensors,
    make_adapter,
    package,
    write_config,
    write_weights,
)

Q = f"base_model.model.{MODULES[0]}"


def write_raw(directory: Path, header: object, data: bytes = b"") -> None:
    """A weights file with any header, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(start=0, end=16, dtype="F32", shape=(2, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def check(directory: Path) -> None:
    check_package(package(directory))


@pytest.fixture
def valid(tmp_path):
    return make_adapter(tmp_path / "adapter").directory


def test_a_lora_adapter_is_let_through(valid):
    (valid / TEMPLATE).write_text("{{ messages }}")
    check(valid)
    assert [file.path for file in build_files(valid)] == [CONFIG, WEIGHTS, TEMPLATE]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_ranks_may_differ_where_the_pattern_says_so(valid, dtype):
    tensors = lora_tensors(MODULES[:1], r=4) | lora_tensors(MODULES[1:], r=7)
    write_weights(valid, {name: tensor.astype(dtype) for name, tensor in tensors.items()})
    write_config(valid, rank_pattern={"self_attn.v_proj": 7})
    check(valid)
    write_config(valid, rank_pattern={r"model\.layers\.\d+\.self_attn\.v_proj": 7})
    check(valid)


@pytest.mark.parametrize(
    ("header", "data", "sentence"),
    [
        (b"{{", b"", "not valid JSON"),
        (b"[1]", b"", "not a JSON object"),
        (b"\xff\xfe", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (
            b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2),
            bytes(16),
            "'a' comes twice",
        ),
        ({"a": entry(), "__metadata__": {"format": 1}}, bytes(16), "__metadata__"),
        ({"a": {"dtype": "F32"}}, b"", "'a' is malformed"),
        ({"a": entry(dtype="F64", end=32)}, bytes(32), "'a' is F64; use one of F32, F16, BF16"),
        ({"a": entry(dtype="I8", end=4)}, bytes(4), "'a' is I8"),
        ({"a": entry(shape=(-2, -2))}, bytes(16), "impossible shape"),
        ({"a": entry(shape=(2, 3))}, bytes(16), r"F32 \[2, 3\] needs 24"),
        ({"a": entry(), "b": entry(8, 24)}, bytes(24), "'b' overlaps"),
        ({"a": entry(), "b": entry(0, 16)}, bytes(16), "'b' overlaps"),
        ({"a": entry(), "b": entry(20, 36)}, bytes(36), "'b' leaves a gap"),
        ({"a": entry()}, bytes(20), "tensors end at byte"),
        ({"a": entry()}, bytes(12), "tensors end at byte"),
        ({"a": entry(-16, 0)}, bytes(16), "is given the bytes -16 to 0"),
    ],
)
def test_a_malformed_weights_file_is_refused(valid, header, data, sentence):
    write_raw(valid, header, data)
    with pytest.raises(InvalidAdapter, match=sentence):
        check(valid)


@pytest.mark.parametrize("length", [0, 1 << 30, 1 << 63])
def test_a_header_longer_than_the_file_is_refused(valid, length):
    (valid / WEIGHTS).write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(InvalidAdapter, match=f"claims {length} bytes"):
        check(valid)


@pytest.mark.parametrize("size", [0, 7, 8, 9])
def test_a_truncated_file_is_refused(valid, size):
    (valid / WEIGHTS).write_bytes((valid / WEIGHTS).read_bytes()[:size])
    with pytest.raises(InvalidAdapter):
        check(valid)


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_byte_is_refused_or_harmless_but_never_a_crash(valid, position, byte):
    data = bytearray((valid / WEIGHTS).read_bytes())
    data[position] = byte
    changed = valid.parent / "changed.safetensors"
    changed.write_bytes(data)
    with contextlib.suppress(InvalidAdapter):
        check_finite(changed, read_header(changed))


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F32", 0x7FC00000), ("F32", 0xFF800000), ("F16", 0x7E00), ("F16", 0x7C00), ("BF16", 0x7FC0)],
)
def test_a_nan_or_an_infinity_is_refused(valid, dtype, bits):
    width = 4 if dtype == "F32" else 2
    values = np.zeros(32, dtype=f"<u{width}")
    values[17] = bits
    half = 16 * width
    header = {
        f"{Q}.lora_A.weight": entry(0, half, dtype, (4, 4)),
        f"{Q}.lora_B.weight": entry(half, 2 * half, dtype, (4, 4)),
    }
    write_raw(valid, header, values.tobytes())
    with pytest.raises(InvalidAdapter, match=r"lora_B.weight' holds a NaN or an infinity"):
        check(valid)
    values[17] = 0
    write_raw(valid, header, values.tobytes())
    check(valid)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "LORRA"}, "peft_type 'LORRA' is not known"),
        ({"peft_type": None}, "peft_type None is not known"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"r": 8}, "'base_model.*' has the rank 4 in lora_A and 4 in lora_B, .* declares 8"),
        ({"r": 0}, "r: Input should be greater than or equal to 1"),
        ({"r": "4"}, "r: Input should be a valid integer"),
        ({"lora_alpha": 1e999}, "not a finite number"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"rank_pattern": {"v_proj": 7}}, "v_proj' has the rank 4"),
        ({"rank_pattern": {"(": 7}}, r"rank_pattern '\('"),
        ({"alpha_pattern": {"v_proj": "x"}}, "alpha_pattern.v_proj"),
    ],
)
def test_a_configuration_that_cannot_be_applied_is_refused(valid, config, sentence):
    write_config(valid, **config)
    with pytest.raises(InvalidAdapter, match=sentence):
        check(valid)


def test_a_number_too_large_for_a_float_is_not_a_scale(valid):
    text = (valid / CONFIG).read_text().replace('"lora_alpha": 8', '"lora_alpha": 1e999')
    (valid / CONFIG).write_text(text)
    with pytest.raises(InvalidAdapter, match="lora_alpha: Input should be a finite number"):
        check(valid)


@pytest.mark.parametrize("text", ["", "[]", '{"r": 4, "r": 8}', "{", "\0"])
def test_a_configuration_that_is_not_a_json_object_is_refused(valid, text):
    (valid / CONFIG).write_text(text)
    with pytest.raises(InvalidAdapter, match=CONFIG):
        check(valid)


def changed_tensors(change):
    tensors = lora_tensors()
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "q_proj' has no lora_A"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "q_proj' has no lora_B"),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((2, 16), np.float32)}),
            "rank 2 in lora_A and 4 in lora_B",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, 4, 4), np.float32)}),
            r"shape \(4, 4, 4\); it must be a matrix",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, 0), np.float32)}),
            "lora_A.weight' is empty",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}),
            "lm_head.weight' is neither a lora_A nor a lora_B",
        ),
        (lambda t: t.clear(), "no lora_A and lora_B at all"),
    ],
)
def test_pairs_that_do_not_make_a_lora_are_refused(valid, change, sentence):
    write_weights(valid, changed_tensors(change))
    with pytest.raises(InvalidAdapter, match=sentence):
        check(valid)


def test_tensors_beside_the_pairs_are_let_through_where_they_are_declared(valid):
    tensors = lora_tensors() | {f"{Q}.lora_magnitude_vector": np.ones(16, np.float32)}
    write_weights(valid, tensors)
    write_config(valid, use_dora=True)
    check(valid)


def test_other_methods_are_let_through_to_be_merged(valid):
    write_weights(valid, {"base_model.model.h.0.attn.ia3_l": np.ones((16, 1), np.float32)})
    (valid / CONFIG).write_text('{"peft_type": "IA3"}')
    check(valid)


@pytest.mark.parametrize("name", ["adapter_model.bin", ".hidden", "modeling.py"])
def test_a_file_that_the_manifest_does_not_name_is_refused(valid, name):
    (valid / name).write_text("x")
    with pytest.raises(InvalidAdapter, match=f"also holds {name}"):
        check(valid)


def test_a_file_that_no_adapter_has_is_refused(valid):
    (valid / "modeling.py").write_text("x")
    files = (*build_files(valid), FileEntry(path="modeling.py", size=1, sha256="0" * 64))
    with pytest.raises(InvalidAdapter, match=r"modeling\.py cannot be part of an adapter"):
        check_package(AdapterPackage(valid, Manifest(files=files, base=BASE, method="lora")))


def test_a_missing_file_is_named(valid):
    whole = package(valid)
    (valid / WEIGHTS).unlink()
    with pytest.raises(CorruptFile, match=f"{WEIGHTS} is missing"):
        check_package(whole)
    with pytest.raises(InvalidAdapter, match=f"has no {WEIGHTS}"):
        build_files(valid)


def test_a_link_is_not_followed(valid, tmp_path):
    whole = package(valid)
    (valid / CONFIG).rename(tmp_path / "elsewhere")
    (valid / CONFIG).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptFile, match="not a plain file"):
        check_package(whole)


def test_a_size_that_is_not_the_files_is_corrupt(valid):
    files = [file.model_copy(update={"size": file.size + 1}) for file in build_files(valid)]
    with pytest.raises(CorruptFile, match="bytes"):
        check_package(AdapterPackage(valid, Manifest(files=files, base=BASE, method="lora")))


def test_a_template_must_be_text_of_a_reasonable_size(valid):
    (valid / TEMPLATE).write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidAdapter, match="not UTF-8"):
        check(valid)
    (valid / TEMPLATE).write_bytes(b"x" * (1 << 20) + b"x")
    with pytest.raises(InvalidAdapter, match="larger than"):
        check(valid)
