"""Bytes of any kind at the gate: only `InvalidAdapter` ever comes out, and nothing that is let
through reaches beyond its file. The long forms try every bit, and much more: `make torture`."""

import json
import math
import random
import re
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from adaptery.errors import InvalidAdapter
from adaptery.registry.gate.package import WEIGHTS
from adaptery.registry.gate.patterns import NAME_LENGTH, check_pattern
from adaptery.registry.gate.tensorfile import check_finite, read_header
from adaptery.registry.gate.text import strict_json
from tests.adapters import make_adapter

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = settings(COMMON, max_examples=10_000)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
NUMBERS = st.integers(-9, 40) | st.sampled_from([True, 2.0, 2**31, 2**62, 2**63, 2**64, 10**30])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "", 1]),
        "shape": st.lists(NUMBERS, max_size=4) | JSON,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | JSON,
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__", "../x", "a.b"]), ENTRIES | JSON
)
FILES = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda length, rest: struct.pack("<Q", length) + rest, st.integers(0, 99), st.binary()
    ),
    st.builds(
        lambda header, data: with_header(json.dumps(header).encode(), data),
        HEADERS,
        st.binary(max_size=64),
    ),
)
PIECES = [
    "a",
    "b",
    ".",
    r"\w",
    r"\d",
    "[ab]",
    "[^x]",
    "*",
    "+",
    "?",
    "*?",
    "{2}",
    "{1,3}",
    "{0,50}",
]
PATTERNS = st.lists(st.sampled_from([*PIECES, "(", ")", "|", "(?:", "(?=", "^", "$"]), max_size=14)


def with_header(header, data):
    return struct.pack("<Q", len(header)) + header + data


def tried(act):
    """What it gives, and what it was refused with."""
    try:
        return act(), ""
    except InvalidAdapter as error:
        return None, str(error)


def check_file(path, data):
    """Refused; or its tensors lie within the file one after the other, and safetensors agrees."""
    path.write_bytes(data)
    tensors, refusal = tried(lambda: read_header(path))
    assert len(refusal) < 1000
    if tensors is None:
        return False
    at = 8 + int.from_bytes(data[:8], "little")
    for tensor in tensors:
        assert tensor.start == at
        assert tensor.end - tensor.start == math.prod(tensor.shape) * WIDTHS[tensor.dtype]
        at = tensor.end
    assert at == len(data)
    with safe_open(path, "np") as file:
        assert set(file.keys()) == {tensor.name for tensor in tensors}
    return True


def check_values(path):
    """Reading every value of a file that was let through ends well, too."""
    _, refusal = tried(lambda: check_finite(path, read_header(path)))
    assert not refusal or "NaN or an infinity" in refusal


def check_json(data):
    """Refused; or a value that Python's own reader gives as well, and that can be written."""
    value, refusal = tried(lambda: strict_json(data, "it"))
    if refusal:
        assert refusal.startswith("it ")
        return
    assert value == json.loads(data)
    json.dumps(value, ensure_ascii=False).encode()


def check_quick(pieces):
    """Refused; or matched with a name of the longest kind in no time."""
    pattern = "".join(pieces)
    _, refusal = tried(lambda: check_pattern(pattern, "it"))
    if refusal:
        assert refusal.startswith("it ")
        return
    compiled = re.compile(pattern)
    for name in ("a" * NAME_LENGTH, "ab" * (NAME_LENGTH // 2), "a" * (NAME_LENGTH - 1) + "!"):
        started = time.process_time()
        compiled.fullmatch(name)
        assert time.process_time() - started < 1, pattern


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """The bytes of a valid weights file of two modules."""
    directory = make_adapter(tmp_path_factory.mktemp("fuzz") / "a", r=2, width=4).directory
    return (directory / WEIGHTS).read_bytes()


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_file_that_is_changed_was_valid(tmp_path, valid):
    assert check_file(tmp_path / WEIGHTS, valid)


@given(data=FILES)
@COMMON
def test_any_file_is_refused_or_lies_within_itself(tmp_path, data):
    check_file(tmp_path / WEIGHTS, data)


def test_a_file_with_one_bit_changed_is_refused_or_lies_within_itself(tmp_path, valid):
    bits = random.Random(0).sample(range(len(valid) * 8), 500)
    for bit in bits:
        if check_file(tmp_path / WEIGHTS, flipped(valid, bit)):
            check_values(tmp_path / WEIGHTS)


@given(data=st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode))
@COMMON
def test_any_bytes_are_a_json_value_or_refused(data):
    check_json(data)


@given(pieces=PATTERNS)
@COMMON
def test_any_pattern_is_quick_or_refused(pieces):
    check_quick(pieces)


def test_what_is_checked_here_can_fail(tmp_path, valid):
    """The library refuses what we would have to, so that its agreement means something."""
    (tmp_path / WEIGHTS).write_bytes(valid[:-1])
    with pytest.raises(SafetensorError), safe_open(tmp_path / WEIGHTS, "np"):
        pass
    started = time.process_time()
    re.fullmatch("(a|a)*b", "a" * 20)
    assert time.process_time() - started > 0.01


@pytest.mark.torture
def test_long_every_bit_of_a_valid_file(tmp_path, valid):
    passed = sum(
        check_file(tmp_path / WEIGHTS, flipped(valid, bit)) for bit in range(len(valid) * 8)
    )
    print(f"bits changed: {len(valid) * 8}, of which in values or harmless: {passed}")


@pytest.mark.torture
@pytest.mark.parametrize("what", ["files", "json", "patterns"])
def test_long_anything_at_the_gate(tmp_path, what):
    path = tmp_path / WEIGHTS
    check, inputs = {
        "files": (lambda data: check_file(path, data), FILES),
        "json": (check_json, st.binary() | JSON.map(json.dumps).map(str.encode)),
        "patterns": (check_quick, PATTERNS),
    }[what]

    @LONG
    @given(data=inputs)
    def each(data):
        check(data)

    each()
