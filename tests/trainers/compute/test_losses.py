"""Losses of a frozen or trained output layer against torch's cross-entropy."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, log_softmax

from adaptery.trainers.compute import losses
from adaptery.trainers.compute.losses import linear_losses


@pytest.fixture
def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, output weights, bias and targets of 70 positions."""
    torch.manual_seed(0)
    hidden = torch.randn(70, 16, requires_grad=True)
    return hidden, torch.randn(53, 16), torch.randn(53), torch.randint(53, (70,))


@pytest.mark.parametrize("most", [1, 53 * 4 * 16 * 2, 2**20])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_losses_and_gradients_are_cross_entropys_however_small_the_chunks(
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    trained: bool,
    biased: bool,
) -> None:
    monkeypatch.setattr(losses, "MOST_BYTES", most)
    hidden, weight, bias, targets = parts
    wanted_of = [hidden]
    if trained:
        wanted_of += [weight.requires_grad_()] + ([bias.requires_grad_()] if biased else [])
    got = linear_losses(hidden, weight, bias if biased else None, targets)
    truth = cross_entropy(
        linear(hidden, weight, bias if biased else None), targets, reduction="none"
    )
    torch.testing.assert_close(got, truth, atol=1e-5, rtol=1e-5)
    upstream = torch.rand(70)
    for one, other in zip(
        torch.autograd.grad(got, wanted_of, upstream),
        torch.autograd.grad(truth, wanted_of, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_no_more_logits_are_in_memory_than_allowed(
    parts: tuple[Tensor, Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, _, targets = parts
    monkeypatch.setattr(losses, "MOST_BYTES", 53 * 4 * 16)
    seen: list[int] = []

    def noted(logits: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(logits.numel())
        return log_softmax(logits, *args, **options)

    monkeypatch.setattr(losses, "log_softmax", noted)
    linear_losses(hidden, weight, None, targets)
    assert sum(seen) == 70 * 53
    assert max(seen) <= 53 * 16


def test_in_bf16_losses_are_as_near_as_its_logits_allow(
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, weight, _, targets = parts
    with torch.autocast("cpu", torch.bfloat16):
        got = linear_losses(hidden, weight, None, targets)
    low = linear(hidden.bfloat16(), weight.bfloat16()).float()
    torch.testing.assert_close(got, cross_entropy(low, targets, reduction="none"))
    assert got.dtype == torch.float32


def test_without_gradients_none_is_computed(
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, weight, _, targets = parts
    with torch.no_grad():
        got = linear_losses(hidden, weight, None, targets)
    assert not got.requires_grad
    torch.testing.assert_close(got, cross_entropy(hidden @ weight.T, targets, reduction="none"))


def test_nothing_to_learn_is_no_loss(parts: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    hidden, weight, _, targets = parts
    assert linear_losses(hidden[:0], weight, None, targets[:0]).shape == (0,)
