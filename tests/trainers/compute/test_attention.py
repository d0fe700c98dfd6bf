"""Attention within rows against each row alone, in both ways that it is computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from adaptery.trainers.compute.attention import attend
from adaptery.trainers.compute.packing import Layout, pack
from adaptery.trainers.compute.row_attention import RowAttention, visible
from adaptery.trainers.encoding import IGNORED
from tests.trainers.compute.test_packing import of_lengths

LENGTHS = ([5, 40, 17], [32, 32], [64], [1, 3])


def laid_out(lengths: list[int], same: int, multiple: int = 64) -> Layout:
    """Rows of these lengths behind `same` tokens that they share."""
    data = [([99] * same + ids, [IGNORED] * (same + 1) + ids[1:]) for ids, _ in of_lengths(lengths)]
    layout = pack(data, multiple, share=True).layout
    assert layout.shared == (same if len(lengths) > 1 else 0)
    return layout


def inputs(layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    """Queries of 6 heads, keys and values of 2."""
    torch.manual_seed(0)
    return [
        torch.randn(1, heads, layout.tokens, 8).to(dtype).requires_grad_() for heads in (6, 2, 2)
    ]


def expected(tensors: list[Tensor], layout: Layout, window: int | None) -> Tensor:
    """Each row by itself in fp32, (filled, heads, size)."""
    outputs: list[Tensor] = []
    start = layout.shared
    for length in layout.lengths:
        places = torch.tensor([*range(layout.shared), *range(start, start + length)])
        q, k, v = (t[:, :, places].float() for t in tensors)
        mask = visible(len(places), len(places), window)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        outputs.append(seen[0].transpose(0, 1)[layout.shared if outputs else 0 :])
        start += length
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("same", [0, 24])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_each_row_attends_to_itself_alone_and_so_do_gradients(
    dtype: torch.dtype, tolerance: float, lengths: list[int], same: int, window: int | None
) -> None:
    layout = laid_out(lengths, same)
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


@pytest.mark.parametrize("same", [0, 16])
def test_the_gradient_of_plain_products_is_exact(same: int) -> None:
    layout = laid_out([2, 3], same, multiple=1)
    torch.manual_seed(0)
    tensors = [
        torch.randn(1, heads, layout.tokens, 2, dtype=torch.float64, requires_grad=True)
        for heads in (2, 1, 1)
    ]
    for window in (None, 2):
        assert torch.autograd.gradcheck(
            lambda q, k, v, window=window: RowAttention.of(q, k, v, layout, 0.5, window), tensors
        )
