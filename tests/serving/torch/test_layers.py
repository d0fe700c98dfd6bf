"""Layers that are computed together, and in oneDNN's order, give what each gave by itself."""

import pytest
import torch
from torch import Tensor, nn

from adaptery.serving.torch import layers as layers_module
from adaptery.serving.torch.layers import Projection, shared_inputs
from adaptery.serving.torch.lora import Stacked

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


class Block(nn.Module):
    """Layers as decoders have them: three of one input, two of another, one alone, one routed."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(32, 48)
        self.k = nn.Linear(32, 16, bias=False)
        self.v = nn.Linear(32, 16)
        self.o = nn.Linear(48, 32, bias=False)
        self.gate = nn.Linear(32, 40, bias=False)
        self.up = nn.Linear(32, 40, bias=False)
        self.down = nn.Linear(40, 32)
        self.expert = nn.Linear(32, 32)
        self.twice = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        q *= 2  # in place: nobody else's numbers may change
        x = x + self.o(q + (k * v).sum(-1, keepdim=True))
        gated = self.gate(x).sigmoid_() * self.up(x)
        x = x + self.down(gated)
        x[:, ::2] += self.expert(x[:, ::2])
        return self.twice(self.twice(x))


def make(dtype: torch.dtype) -> Block:
    torch.manual_seed(0)
    return Block().to(dtype).requires_grad_(False)


def groups_of(block: Block, dtype: torch.dtype) -> list[dict[str, nn.Linear]]:
    x = torch.randn(1, 6, 32, dtype=dtype)
    return shared_inputs(block, lambda: block(x), 6)


def test_layers_are_grouped_by_what_they_are_fed():
    groups = groups_of(make(torch.float32), torch.float32)
    assert [set(group) for group in groups] == [{"q", "k", "v"}, {"o"}, {"gate", "up"}, {"down"}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ordered", [True, False], ids=["reordered", "plain"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 64])
@torch.inference_mode()
def test_what_is_computed_together_is_what_each_gave(dtype, ordered, tokens, monkeypatch):
    if not ordered:
        monkeypatch.setattr(layers_module, "reorders", lambda _: False)
    block, rebuilt = make(dtype), make(dtype)
    for group in groups_of(rebuilt, dtype):
        Projection(group, Stacked())
    x = torch.randn(1, tokens, 32, dtype=dtype)
    for _ in range(2):  # nothing is left over from the first call
        expected = block(x.clone())
        difference = (rebuilt(x.clone()) - expected).abs().max()
        assert difference <= TOLERANCE[dtype] * expected.abs().max()


@torch.inference_mode()
def test_no_rows_give_no_rows():
    layer = nn.Linear(32, 16)
    Projection({"head": layer}, Stacked())
    assert layer(torch.randn(1, 0, 32)).shape == (1, 0, 16)


@torch.inference_mode()
def test_nothing_is_left_of_a_step_that_was_broken_off():
    block, rebuilt = make(torch.float32), make(torch.float32)
    for group in groups_of(rebuilt, torch.float32):
        Projection(group, Stacked())
    x, y = torch.randn(2, 1, 3, 32)
    rebuilt.q(x)  # and never k and v
    for name in ("q", "k", "v"):
        torch.testing.assert_close(rebuilt.get_submodule(name)(y), block.get_submodule(name)(y))
