"""Many adapters in one product add what each adds to its own rows, and nothing to others."""

from collections.abc import Sequence
from zlib import crc32

import pytest
import torch
from torch import Tensor, nn

from adaptery.serving.torch import lora
from adaptery.serving.torch.lora import Adapter, Change, Factors, Stacked

INPUTS, SIZES = 24, [16, 8, 8]
MEMBERS = ["q", "k", "v"]
COLUMNS = [slice(0, 16), slice(16, 24), slice(24, 32)]


def adapter(name: str, ranks: dict[str, int], seed: int = 0) -> Adapter:
    """Random, of the given rank on each of the given layers."""
    torch.manual_seed(crc32(f"{name} {seed}".encode()))
    outputs = dict(zip(MEMBERS, SIZES, strict=True))
    return Adapter(
        name,
        {
            layer: Factors(torch.randn(rank, INPUTS), torch.randn(outputs[layer], rank))
            for layer, rank in ranks.items()
        },
    )


class Active:
    """Adapters on one group of layers: q, k and v."""

    def __init__(self) -> None:
        self.adapters = Stacked()
        layers = zip(MEMBERS, SIZES, strict=True)
        self.change: Change = self.adapters.layers(
            {name: nn.Linear(INPUTS, size, bias=False) for name, size in layers}
        )

    @property
    def a(self) -> Tensor:
        """What all are arranged in."""
        return self.adapters.stacks[0].a


def active() -> Active:
    return Active()


def together(active: Active, owners: Sequence[Adapter | None], x: Tensor) -> Tensor:
    """What is added to rows x (tokens, inputs) of these owners."""
    output = torch.zeros(len(x), sum(SIZES))
    active.adapters.begin([(owner, 1) for owner in owners])
    with torch.inference_mode():
        active.change(output, x)
    active.adapters.end()
    return output


def alone(owners: Sequence[Adapter | None], x: Tensor) -> Tensor:
    """The same row by row, by the formula."""
    output = torch.zeros(len(x), sum(SIZES))
    for row, owner in enumerate(owners):
        for layer, factors in owner.layers.items() if owner else ():
            output[row, COLUMNS[MEMBERS.index(layer)]] = factors.b @ (factors.a @ x[row])
    return output


def require_same(adapters: Active, owners: Sequence[Adapter | None]) -> None:
    x = torch.randn(len(owners), INPUTS)
    torch.testing.assert_close(
        together(adapters, owners, x), alone(owners, x), rtol=1e-4, atol=1e-4
    )


RANKS = [
    {"q": 1, "k": 1, "v": 1},
    {"q": 64, "k": 3, "v": 17},
    {"k": 5},
    {"q": 8, "v": 8},
    {"v": 2},
    {"q": 33, "k": 33},
]


@pytest.fixture(params=[0, 10**9], ids=["split", "joint"], autouse=True)
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of q, k and v by a product each, or by one over all."""
    monkeypatch.setattr(lora, "SMALL", request.param)


def test_a_batch_of_ranks_from_1_to_64_and_of_the_base():
    mixed = [adapter(str(i), ranks) for i, ranks in enumerate(RANKS)]
    require_same(active(), [None, *mixed, None, mixed[3], mixed[0], mixed[1]])


@pytest.mark.parametrize("ranks", RANKS)
def test_rows_of_one_adapter_alone(ranks: dict[str, int]):
    one, adapters = adapter("one", ranks), active()
    require_same(adapters, [one] * 5)
    require_same(adapters, [adapter("other", RANKS[1]), one, None])
    require_same(adapters, [one] * 5)  # now from the middle of what is arranged


def test_rows_of_the_base_alone_are_not_touched():
    require_same(active(), [None] * 3)
    assert active().adapters.update(slice(0, 3), [None] * 3) is None


def test_whoever_comes_and_goes_the_others_are_right():
    torch.manual_seed(0)
    adapters, known = active(), [adapter(str(i), RANKS[i % 6], i) for i in range(20)]
    for step in range(60):
        count = int(torch.randint(1, 9, ()))
        chosen = torch.randint(-3, len(known), (count,)).tolist()
        require_same(adapters, [known[i] if i >= 0 else None for i in chosen])
        if step % 7 == 0:  # read anew: the same name, another object
            known[step % 20] = adapter(str(step % 20), RANKS[step % 6], 100 + step)


def test_the_places_of_those_who_stay_are_kept():
    adapters = active()
    first, second = adapter("first", {"q": 4}), adapter("second", {"q": 4})
    together(adapters, [first, second], torch.randn(2, INPUTS))
    before = adapters.a.clone()
    together(adapters, [second], torch.randn(1, INPUTS))
    together(adapters, [second, first], torch.randn(2, INPUTS))
    assert torch.equal(adapters.a, before)


def test_huge_numbers_of_one_adapter_do_not_reach_the_rows_of_others():
    huge = Adapter("huge", {"k": Factors(torch.full((4, INPUTS), 1e38), torch.full((8, 4), -3e38))})
    others = [adapter("a", RANKS[1]), None, adapter("b", RANKS[3])]
    owners, x = [*others, huge], torch.randn(4, INPUTS)
    found = together(active(), owners, x)
    assert not found[3].isfinite().all()
    torch.testing.assert_close(found[:3], alone(owners, x)[:3], rtol=1e-4, atol=1e-4)
    assert (found[1] == 0).all()


def test_huge_numbers_of_an_adapter_that_left_do_not_come_back():
    adapters, huge = (
        active(),
        Adapter("huge", {"q": Factors(torch.full((4, INPUTS), 1e38), torch.full((16, 4), 3e38))}),
    )
    small = adapter("small", {"k": 2})
    together(adapters, [huge, small], torch.randn(2, INPUTS))
    require_same(adapters, [small, None])
    require_same(adapters, [small, adapter("after", {"q": 3, "v": 1}), None])
