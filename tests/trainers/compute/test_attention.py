"""Attention within rows against each row alone, in both ways that it is computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from adaptery.trainers.compute.attention import attend, band
from adaptery.trainers.compute.packing import Layout, pack
from adaptery.trainers.compute.row_attention import RowAttention
from tests.trainers.compute.test_packing import of_lengths

LENGTHS = ([5, 40, 17], [32, 32], [64], [1, 3])


def inputs(layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    """Queries of 6 heads, keys and values of 2."""
    torch.manual_seed(0)
    return [
        torch.randn(1, heads, layout.tokens, 8).to(dtype).requires_grad_() for heads in (6, 2, 2)
    ]


def expected(tensors: list[Tensor], layout: Layout, window: int | None) -> Tensor:
    """Each row by itself in fp32, (filled, heads, size)."""
    outputs, start = [], 0
    for length in layout.lengths:
        q, k, v = (t[:, :, start : start + length].float() for t in tensors)
        mask = band(length, window or length, q.device)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        outputs.append(seen[0].transpose(0, 1))
        start += length
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_each_row_attends_to_itself_alone_and_so_do_gradients(
    dtype: torch.dtype, tolerance: float, lengths: list[int], window: int | None
) -> None:
    layout = pack(of_lengths(lengths)).layout
    tensors = inputs(layout, dtype)
    query, key, value = tensors
    output, _ = attend(nn.Module(), query, key, value, None, layout=layout, sliding_window=window)
    assert output.shape == (1, layout.tokens, 6, 8)
    assert (output[0, layout.filled :] == 0).all()
    truth = expected(tensors, layout, window)
    torch.testing.assert_close(
        output[0, : layout.filled].float(), truth, atol=tolerance, rtol=tolerance
    )
    upstream = torch.randn_like(truth)
    got = torch.autograd.grad(output[0, : layout.filled].float(), tensors, upstream)
    wanted = torch.autograd.grad(truth, tensors, upstream)
    for one, other in zip(got, wanted, strict=True):
        error = (one.float() - other.float()).norm() / other.float().norm()
        assert error < tolerance


def test_on_a_cpu_in_bf16_it_is_the_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the case above would have tried SDPA twice."""
    calls: list[torch.dtype] = []
    plain = RowAttention.of

    def noted(query: Tensor, *others: Any) -> Tensor:
        calls.append(query.dtype)
        return plain(query, *others)

    monkeypatch.setattr(RowAttention, "of", noted)
    layout = pack(of_lengths([5, 9])).layout
    for dtype in (torch.bfloat16, torch.float32):
        query, key, value = inputs(layout, dtype)
        attend(nn.Module(), query, key, value, None, layout=layout)
    assert calls == [torch.bfloat16]


def test_the_gradient_of_plain_products_is_exact() -> None:
    layout = pack(of_lengths([3, 5]), multiple=4).layout
    torch.manual_seed(0)
    tensors = [
        torch.randn(1, heads, layout.tokens, 4, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    ]
    for window in (None, 2):
        assert torch.autograd.gradcheck(
            lambda q, k, v, window=window: RowAttention.of(q, k, v, layout, 0.5, window), tensors
        )
