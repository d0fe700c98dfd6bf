"""Headers that lie, tensors that cannot be, and adapters of another base."""

import json
import struct
from pathlib import Path

import numpy as np

from adaptery.registry.gate.package import WEIGHTS
from tests.adapters import MODULES, lora_tensors
from tests.registry.gate.corpus import (
    RANK,
    WIDTH,
    Kind,
    Q,
    V,
    entry,
    headed,
    kind,
    reconfigure,
    reweigh,
    write_raw,
)

FLOATS = {
    "NaN in F32": ("F32", 0x7FC00000),
    "signalling NaN in F32": ("F32", 0x7F800001),
    "infinity in F32": ("F32", 0x7F800000),
    "minus infinity in F32": ("F32", 0xFF800000),
    "NaN in F16": ("F16", 0x7E00),
    "infinity in F16": ("F16", 0x7C00),
    "NaN in BF16": ("BF16", 0x7FC0),
    "infinity in BF16": ("BF16", 0xFF80),
}


def poisoned(name: str) -> Kind:
    """One value that is no number."""
    dtype, bits = FLOATS[name]
    width = 4 if dtype == "F32" else 2

    def build(at: Path, canary: Path) -> None:
        values = np.zeros(4 * RANK * WIDTH, f"<u{width}")
        values[-3] = bits
        size = RANK * WIDTH * width
        shapes = [(RANK, WIDTH), (WIDTH, RANK)] * 2
        names = [f"{module}.lora_{side}.weight" for module in (Q, V) for side in "AB"]
        header = {
            name: entry(i * size, (i + 1) * size, dtype, shape)
            for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
        }
        write_raw(at, header, values.tobytes())

    says = r"v_proj.lora_B.weight' holds a NaN or an infinity"
    return Kind(name, build, says, says)


def lengthy(length: int) -> Kind:
    """A header that claims to be of this length."""

    def build(at: Path, canary: Path) -> None:
        rest = (at / WEIGHTS).read_bytes()[8:]
        (at / WEIGHTS).write_bytes(struct.pack("<Q", length) + rest)

    says = f"claims {length} bytes" if length != 100 else "header .*not valid JSON"
    return Kind(f"header of {length} bytes", build, says, says)


def weighed(name: str, publish: str | None, imports: str = "", **tensors: object) -> Kind:
    """A kind with other tensors: `q_A` and so on, or any name in `more`; None leaves one out."""
    short = {f"{m}_{s}": f"{n}.lora_{s}.weight" for m, n in (("q", Q), ("v", V)) for s in "AB"}
    named = dict(tensors.pop("more", {}))  # type: ignore[call-overload]

    def build(at: Path, canary: Path) -> None:
        changes = named | {short[key]: value for key, value in tensors.items()}
        reweigh(at, {n: np.ones(v, np.float32) if v else None for n, v in changes.items()})

    return Kind(name, build, publish, imports or publish)


def tensor_named(title: str, name: str) -> Kind:
    says = "is a name that no module's tensor has"
    return headed(f"tensor with {title}", says, {name: entry()}, bytes(16))


@kind("'a' comes twice")
def build_tensor_twice(at: Path, canary: Path) -> None:
    write_raw(at, b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2), bytes(16))


@kind("is empty")
def build_tensors_of_nothing(at: Path, canary: Path) -> None:
    item = json.dumps(entry(0, 0, shape=[0])).encode()
    write_raw(at, b"{" + b",".join(b'"%x":%s' % (i, item) for i in range(100_000)) + b"}")


@kind("is malformed: most of it is no tensor")
def build_million_tensors(at: Path, canary: Path) -> None:
    write_raw(at, b"{" + b",".join(b'"%x":0' % i for i in range(1_000_000)) + b"}")


@kind(None, r"q_proj' has lora_A of shape \(16, 8192\) .* it is \(16, 16\)")
def build_adapter_of_a_70b_model(at: Path, canary: Path) -> None:
    tensors = lora_tensors([f"model.layers.{i}.self_attn.q_proj" for i in range(8)], 16, 8192)
    (at / WEIGHTS).unlink()
    from safetensors.numpy import save_file

    save_file({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, at / WEIGHTS)
    reconfigure(at, r=16)


@kind(None, r"q_proj' has lora_A of shape \(4, 2147483648\)")
def build_sparse_width(at: Path, canary: Path) -> None:
    """Eight gigabytes times four that nobody wrote, each byte accounted for in the header."""
    width = 1 << 31
    size = RANK * width * 2
    header = {
        f"{Q}.lora_A.weight": entry(0, size, "F16", (RANK, width)),
        f"{Q}.lora_B.weight": entry(size, size + RANK * 32, "F16", (WIDTH, RANK)),
    }
    write_raw(at, header)
    with (at / WEIGHTS).open("ab") as file:
        file.truncate(file.tell() + size + RANK * 32)


BIG = 1 << 62
MODULE = MODULES[0].rpartition(".")[0]
TENSORS = [
    *map(poisoned, FLOATS),
    *map(lengthy, (0, 1, 100, 1 << 24, 1 << 40, 1 << 63, (1 << 64) - 1)),
    headed("header is a list", "not a JSON object", [1]),
    headed("header begins with a blank", "not a JSON object", b" {}"),
    headed("header nests", "not valid JSON", b"[" * 100_000),
    headed("header nests less", "nests deeper than 32", b'{"a":' * 40 + b"1" + b"}" * 40),
    headed("header is not UTF-8", "not valid JSON", b'{"\xff": 1}'),
    headed("header with a huge number", "not valid JSON", b'{"a": %s}' % (b"9" * 5000)),
    headed("metadata that is no text", "__metadata__", {"__metadata__": {"a": 1}}),
    headed("no tensors", "holds no", {}),
    headed("overlap", "'b' overlaps", {"a": entry(), "b": entry(8, 24)}, bytes(24)),
    headed("shared bytes", "'b' overlaps", {"a": entry(), "b": entry()}, bytes(16)),
    headed("gap", "'b' leaves a gap", {"a": entry(), "b": entry(20, 36)}, bytes(36)),
    headed("bytes before the first", "'a' leaves a gap", {"a": entry(8, 24)}, bytes(24)),
    headed("bytes after the last", "tensors end at byte", {"a": entry()}, bytes(99)),
    headed("bytes beyond the file", "tensors end at byte", {"a": entry()}, bytes(15)),
    headed("bytes in the header", "is given the bytes -16 to 0", {"a": entry(-16, 0)}),
    headed("bytes backwards", "is given the bytes 16 to 0", {"a": entry(16, 0)}, bytes(16)),
    headed("bytes at a huge place", "leaves a gap", {"a": entry(10**30, 10**30 + 16)}, bytes(16)),
    headed("offsets are truths", "malformed", {"a": entry(False, True, shape=[])}, bytes(4)),
    headed("offsets are texts", "malformed", {"a": entry("0", "16")}, bytes(16)),
    headed("three offsets", "malformed", {"a": entry() | {"data_offsets": [0, 8, 16]}}, bytes(16)),
    headed("entry with more in it", "malformed", {"a": entry() | {"code": "os"}}, bytes(16)),
    headed("entry with less in it", "malformed", {"a": {"dtype": "F32"}}),
    headed("dtype of integers", "'a' is I64; use one of", {"a": entry(0, 32, "I64")}, bytes(32)),
    headed("dtype of eight bits", "is F8_E4M3; use", {"a": entry(0, 4, "F8_E4M3")}, bytes(4)),
    headed("dtype that is none", "is PICKLE; use one of", {"a": entry(dtype="PICKLE")}, bytes(16)),
    headed("dtype of another kind", "malformed", {"a": entry(dtype=["F32"])}, bytes(16)),
    headed("shape bomb", "impossible shape", {"a": entry(shape=[BIG])}, bytes(16)),
    headed("shape that wraps round", "impossible", {"a": entry(0, 0, shape=[1 << 32, 1 << 32])}),
    headed("shape of 10,000 bombs", "impossible shape", {"a": entry(shape=[BIG] * 10_000)}),
    headed(
        "shape of 100,000 ones", "is malformed", {"a": entry(0, 4, shape=[1] * 100_000)}, bytes(4)
    ),
    headed("shape of 1,000 ones", "impossible", {"a": entry(0, 4, shape=[1] * 1000)}, bytes(4)),
    headed("shape that is negative", "impossible", {"a": entry(shape=[-2, -2])}, bytes(16)),
    headed("shape of truths", "impossible", {"a": entry(0, 4, shape=[True, True])}, bytes(4)),
    headed("shape of fractions", "impossible", {"a": entry(shape=[2.0, 2.0])}, bytes(16)),
    headed("shape that needs more", r"\[2, 3\] needs 24", {"a": entry(shape=[2, 3])}, bytes(16)),
    tensor_named("traversal in its name", "../../etc/passwd"),
    tensor_named("an absolute path for a name", "/etc/passwd"),
    tensor_named("two dots in its name", "a..b"),
    tensor_named("a backslash in its name", "a\\b"),
    tensor_named("a NUL in its name", "a\0b"),
    tensor_named("a line break in its name", "a\nb"),
    tensor_named("an escape in its name", "\x1b[2J"),
    tensor_named("a name that looks like another", "bаse_model"),
    tensor_named("no name", ""),
    tensor_named("a name of a megabyte", "x" * (1 << 20)),
    weighed("no A", "q_proj' has no lora_A", q_A=None),
    weighed("no B", "q_proj' has no lora_B", q_B=None),
    weighed("ranks that differ", "rank 2 in lora_A and 4 in lora_B", q_A=(2, WIDTH)),
    weighed("rank that is not declared", "rank 5 .* declares 4", q_A=(5, WIDTH), q_B=(WIDTH, 5)),
    weighed("A of three dimensions", "must be a matrix", q_A=(RANK, WIDTH, 1)),
    weighed("A of one dimension", "must be a matrix", q_A=(WIDTH,)),
    weighed("empty tensor", "is empty", q_A=(RANK, 0)),
    weighed("tensor of neither side", "neither a lora_A nor", more={"lm_head.weight": (4, 4)}),
    weighed("A twice", "has two lora_A", more={f"{Q}.lora_embedding_A": (RANK, WIDTH)}),
    weighed(
        "layer that the base has not",
        None,
        r"no layer 'model\.layers\.99\.q_proj'",
        more={
            "base_model.model.model.layers.99.q_proj.lora_A.weight": (RANK, WIDTH),
            "base_model.model.model.layers.99.q_proj.lora_B.weight": (WIDTH, RANK),
        },
    ),
    weighed("A too wide", None, r"lora_A of shape \(4, 17\)", q_A=(RANK, 17)),
    weighed("B too high", None, r"lora_B of \(15, 4\)", q_B=(15, RANK)),
    build_tensor_twice,
    build_tensors_of_nothing,
    build_million_tensors,
    build_adapter_of_a_70b_model,
    build_sparse_width,
]
