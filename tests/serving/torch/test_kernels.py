"""Each kernel against its definition in PyTorch, at sizes that fit registers and that do not."""

import importlib
import math
import threading
from array import array

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.kernels.modules import gated_parts, replace_modules
from adaptery.serving.torch.kernels.segments import Segmented
from adaptery.serving.torch.lora import Adapter, Factors, Run

DTYPES = [torch.float32, torch.bfloat16]
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    torch.manual_seed(0)
    return Kernels(request.param, 2)


@pytest.fixture
def multiplying() -> Kernels:
    torch.manual_seed(0)
    kernels = Kernels(torch.bfloat16, 2)
    if not kernels.multiplies:
        pytest.skip("this processor multiplies bfloat16 better, or not at all")
    return kernels


def require_close(found: Tensor, expected: Tensor) -> None:
    """`expected` in float32: equal up to one rounding of the largest."""
    assert found.shape == expected.shape
    allowed = ROUNDING[found.dtype] * max(expected.abs().flatten().tolist(), default=1.0)
    assert ((found.float() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("shape", [(1, 3, 64), (1, 70, 896), (1, 1, 5), (1, 2, 3, 17)])
def test_norm(kernels: Kernels, shape: tuple[int, ...]):
    x, w = 4 * torch.randn(shape).to(kernels.dtype), torch.randn(shape[-1]).to(kernels.dtype)
    inverse = (x.float().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    require_close(kernels.rms_norm(x, w, 1e-5), w.float() * (x.float() * inverse))


@pytest.mark.parametrize("rows", [1, 16, 90])
@pytest.mark.parametrize("size", [40, 19, 1024])
def test_gated(kernels: Kernels, rows: int, size: int):
    x = (30 * torch.randn(1, rows, 2 * size)).to(kernels.dtype)
    gate, up = x.float().split(size, -1)
    require_close(kernels.gated(x, "silu"), silu(gate) * up)
    require_close(kernels.gated(x, "gelu_tanh"), gelu(gate, approximate="tanh") * up)


@pytest.mark.parametrize("kept", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_not_hidden(kernels: Kernels, kept: float):
    x = torch.tensor([[kept, 1.0, 2.0, 3.0]]).to(kernels.dtype)
    assert kernels.gated(x, "silu").isfinite().tolist() == [[False, True]]
    assert not kernels.rms_norm(x, x.new_ones(4), 1e-5).isfinite().all()


@pytest.mark.parametrize(("heads", "size"), [(4, 64), (1, 8), (3, 6), (2, 80)])
def test_rotary(kernels: Kernels, heads: int, size: int):
    wide = torch.randn(1, 5, heads * size + 7).to(kernels.dtype)  # as a part of a joint product
    x = wide[..., : heads * size].unflatten(-1, (heads, size)).transpose(1, 2)
    cos, sin = torch.randn(2, 1, 5, size).to(kernels.dtype)
    a, b = x.float().chunk(2, -1)
    turned = torch.cat((-b, a), -1)
    require_close(kernels.rotate(x, cos, sin), x.float() * cos.float() + turned * sin.float())


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (33, 7), (5, 50), (896, 101)])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 12, 13, 24, 25, 40])
def test_products(multiplying: Kernels, inputs: int, outputs: int, rows: int):
    x, w = torch.randn(1, rows, inputs), torch.randn(outputs, inputs)
    x, w, bias = x.bfloat16(), w.bfloat16(), torch.randn(outputs).bfloat16()
    expected = x.float() @ w.float().T
    require_close(multiplying.product([w], None)(x), expected)
    require_close(multiplying.product([w], bias)(x), expected + bias.float())


@pytest.mark.parametrize("outputs", [(32, 64, 32), (16, 32), (32, 5)])
def test_layers_side_by_side(multiplying: Kernels, outputs: tuple[int, ...]):
    weights = [torch.randn(size, 33).bfloat16() for size in outputs]
    x = torch.randn(1, 14, 33).bfloat16()
    require_close(multiplying.product(weights, None)(x), x.float() @ torch.cat(weights).float().T)


@pytest.mark.parametrize("rows", [1, 4, 6, 17])
def test_products_with_weights_as_they_lie(kernels: Kernels, rows: int):
    x, w = torch.randn(1, rows, 45).to(kernels.dtype), torch.randn(30, 45).to(kernels.dtype)
    require_close(kernels.plain_linear(x, w), x.float() @ w.float().T)


def test_a_rows_product_is_the_same_bits_whatever_is_beside_it(multiplying: Kernels):
    multiply = multiplying.product([torch.randn(70, 130).bfloat16()], None)
    x = torch.randn(1, 40, 130).bfloat16()
    together = multiply(x)
    for begin in range(0, 40, 7):
        for count in (1, 5, 20):
            rows = slice(begin, begin + count)
            assert torch.equal(multiply(x[:, rows]), together[:, rows])


INPUTS, SIZES = 51, {"q": 40, "k": 9, "v": 16}


def adapter(name: str, dtype: torch.dtype, **ranks: int) -> Adapter:
    """Random, of such ranks on such layers."""
    layers = {
        layer: Factors(
            torch.randn(rank, INPUTS).to(dtype), torch.randn(SIZES[layer], rank).to(dtype)
        )
        for layer, rank in ranks.items()
    }
    return Adapter(name, layers)


def expected_of(runs: list[Run], x: Tensor) -> Tensor:
    """What is added to x (tokens, inputs), row by row, from the definition."""
    owners = [owner for owner, count in runs for _ in range(count)]
    rows = []
    for owner, row in zip(owners, x.float(), strict=True):
        parts = []
        for layer, size in SIZES.items():
            factors = owner.layers.get(layer) if owner else None
            part = torch.zeros(size)
            if factors is not None:
                inner = (factors.a.float() @ row).to(x.dtype).float()
                part = factors.b.float() @ inner
            parts.append(part)
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def copied(adapter: Adapter) -> Adapter:
    layers = {name: Factors(f.a.clone(), f.b.clone()) for name, f in adapter.layers.items()}
    return Adapter(adapter.name, layers)


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1), (1, 0, 3, 64, 2), (5, 1, 2, 1, 19)])
def test_each_row_gets_the_update_of_its_own_adapter(kernels: Kernels, counts: tuple[int, ...]):
    dtype = kernels.dtype
    given = [
        adapter("all", dtype, q=8, k=16, v=3),
        adapter("one", dtype, k=1),
        adapter("odd", dtype, q=5, v=33),
        adapter("none", dtype),
    ]
    segmented = Segmented(kernels)
    change = segmented.layers({n: nn.Linear(INPUTS, size, bias=False) for n, size in SIZES.items()})
    prepared = {a: segmented.prepared(copied(a)) for a in given}
    runs: list[Run] = list(zip([*given, None], counts, strict=True))
    x, before = torch.randn(sum(counts), INPUTS).to(dtype), torch.randn(sum(counts), 65).to(dtype)
    after = before.clone()
    segmented.begin([(prepared[a] if a else None, count) for a, count in runs])
    change(after, x)
    segmented.end()
    require_close(after, before.float() + expected_of(runs, x))
    assert torch.equal(after[-counts[-1] :], before[-counts[-1] :])  # the base's rows


@pytest.mark.parametrize("rank", [1, 2, 7, 16])
@pytest.mark.parametrize("outputs", [10, 48])
def test_an_adapters_b_is_packed_where_it_lies_if_it_has_room(
    kernels: Kernels, rank: int, outputs: int
):
    b = torch.randn(outputs, rank).to(kernels.dtype)
    expected, where = b.clone(), b.data_ptr()
    packed = kernels.packed(b)
    pair = 1 if kernels.dtype == torch.float32 else 2
    tiles = packed.view(-(-outputs // 16), -(-rank // pair), 16, pair)
    found = tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    assert torch.equal(found[:outputs, :rank], expected)
    assert not found[outputs:].any()
    assert not found[:, rank:].any()
    assert (packed.data_ptr() == where) == (outputs % 16 == 0 and rank % pair == 0)


def test_one_threads_call_does_not_disturb_anothers(multiplying: Kernels):
    multiply = multiplying.product([torch.randn(640, 256).bfloat16()], None)
    inputs = [torch.randn(1, n, 256).bfloat16() for n in (1, 16, 40)]
    expected = [multiply(x) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            if not torch.equal(multiply(inputs[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_attention_over_many_tiles_and_a_window(kernels: Kernels):
    heads, groups, size, block, tokens, new = 6, 2, 24, 16, 150, 21
    shape = (11, block, groups, size)
    keys, values = torch.randn(shape).to(kernels.dtype), torch.randn(shape).to(kernels.dtype)
    table = torch.randperm(11)[:10]
    query = torch.randn(1, heads, new, size).to(kernels.dtype)
    latest = [torch.randn(1, groups, new, size).to(kernels.dtype) for _ in range(2)]
    flat = [t[table].flatten(0, 1)[:tokens].float() for t in (keys, values)]
    for all_of, part in zip(flat, latest, strict=True):
        all_of[tokens - new :] = part[0].transpose(0, 1).float()
    for window in (None, 1, 70, 149):
        found = kernels.attend(
            query,
            (latest[0], latest[1]),
            (keys, values),
            array("q", (0, new, tokens - new, 0)),
            array("i", table.tolist()),
            0.3,
            window,
        )
        k, v = (t.transpose(0, 1).repeat_interleave(heads // groups, 0) for t in flat)
        scores = 0.3 * query[0].float() @ k.transpose(1, 2)
        behind = torch.arange(tokens - new, tokens)[:, None] - torch.arange(tokens)
        unseen = (behind < 0) | (behind >= (window or tokens))
        expected = scores.masked_fill(unseen, -math.inf).softmax(-1) @ v
        require_close(found[0], expected.transpose(0, 1))


class Mlp(nn.Module):
    """down(activation(gate(x)) · up(x)), or something else."""

    def __init__(self, act_fn: object, other: bool = False) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 32, bias=False), nn.Linear(8, 32, bias=False)
        self.down_proj, self.act_fn, self.other = nn.Linear(32, 8), act_fn, other

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        gated = gate * self.act_fn(up) if self.other else self.act_fn(gate) * up
        return self.down_proj(gated)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mlp", "activation"),
    [
        (Mlp(nn.SiLU()), "silu"),
        (Mlp(nn.GELU(approximate="tanh")), "gelu_tanh"),
        (Mlp(nn.GELU()), None),  # by less than bfloat16 rounds
        (Mlp(nn.ReLU()), None),
        (Mlp(nn.SiLU(), other=True), None),
    ],
)
def test_a_modules_formula_is_told_by_what_it_computes(
    mlp: Mlp, activation: str | None, dtype: torch.dtype
):
    torch.manual_seed(0)
    mlp.to(dtype)
    assert gated_parts(mlp) == ({mlp: activation} if activation else {})


class Norm(nn.Module):
    """RMSNorm as Llama has it, or with 1 + w as Gemma has it."""

    def __init__(self, plus: float, size: int = 24) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size), requires_grad=False)
        self.variance_epsilon, self.plus = 1e-6, plus

    def forward(self, x: Tensor) -> Tensor:
        normed = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (self.plus + self.weight) * normed.to(x.dtype)


class RMSNorm(Norm):
    """By its name one that is tried."""


@pytest.mark.parametrize(("plus", "replaced"), [(0.0, True), (1.0, False)])
def test_a_norm_is_replaced_only_by_the_same(kernels: Kernels, plus: float, replaced: bool):
    norm = RMSNorm(plus).to(kernels.dtype)
    x = torch.randn(1, 4, 24).to(kernels.dtype)
    expected = norm(x).float()
    replace_modules(norm, kernels, [], {})
    assert ("forward" in vars(norm)) == replaced
    require_close(norm(x), expected)
    other = torch.randn(1, 4, 24, dtype=torch.float64)
    require_close(norm(other).to(kernels.dtype), Norm.forward(norm, other).float())


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_rotary_is_replaced_in_one_module_alone(kernels: Kernels, family: str):
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    (config,) = (v for k, v in vars(modeling).items() if k.lower() == f"{family}config")
    (attention,) = (v for k, v in vars(modeling).items() if k.lower() == f"{family}attention")
    own, function = attention(config(), 0), modeling.apply_rotary_pos_emb
    replace_modules(own, kernels, [], {})
    replaced = vars(own)["forward"]
    assert replaced.__func__.__globals__["apply_rotary_pos_emb"] is not function
    assert modeling.apply_rotary_pos_emb is function
    turned = replaced.__func__.__globals__["apply_rotary_pos_emb"]
    q, k = torch.randn(2, 1, 3, 4, 16).to(kernels.dtype)
    for size in (16, 8) if family == "phi3" else (16,):  # all of a head, or a part
        angles = torch.randn(2, 1, 4, size).to(kernels.dtype)
        for mine, theirs in zip(turned(q, k, *angles), function(q, k, *angles), strict=True):
            require_close(mine, theirs.float())
