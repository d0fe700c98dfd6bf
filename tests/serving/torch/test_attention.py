"""Attention over blocks is attention; what belongs to one row stays there, to the last bit."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adaptery.base_model import LocalBase
from adaptery.errors import UsageError
from adaptery.serving.torch.attention import attend
from adaptery.serving.torch.batch import Batch
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.layers import reorders
from adaptery.serving.torch.lora import Adapter, Factors
from adaptery.serving.torch.sequence import Piece
from adaptery.serving.torch.sequence import Sequence as Tokens
from tests.serving.torch.rig import Rig, Truth

TEXTS = [[((2 * k + 3) * i) % 113 + 5 for i in range(40 + 5 * k)] for k in range(5)]
STEPS = [32, *[1] * 9, 10, *[1] * 9]


@pytest.fixture(
    scope="module",
    params=itertools.product([torch.float32, torch.bfloat16], [True, False]),
    ids=lambda given: f"{given[0]}-{'own' if given[1] else 'torch'}".removeprefix("torch."),
)
def rig(request: pytest.FixtureRequest, base: LocalBase, adapters: dict[str, Path]) -> Rig:
    return Rig.of(base, adapters, *request.param)


def reference(
    query: Tensor, keys: Tensor, values: Tensor, window: int | None, softcap: float | None
) -> Tensor:
    """(heads, tokens, head size) of one sequence's last tokens, from the definition, in float64."""
    shared = len(query) // len(keys)
    keys, values = (t.double().repeat_interleave(shared, 0) for t in (keys, values))
    scores = query.double() @ keys.transpose(1, 2) / math.sqrt(query.shape[-1])
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    new, old = query.shape[1], keys.shape[1]
    behind = torch.arange(old - new, old)[:, None] - torch.arange(old)
    unseen = (behind < 0) | (behind >= (window or old))
    return scores.masked_fill(unseen, -math.inf).softmax(-1) @ values


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 1, 9, 16, 40])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("kernels", [Kernels(torch.float32, 2), None], ids=["own", "torch"])
def test_sequences_in_pieces_attend_to_their_own_past(
    heads: tuple[int, int], window: int | None, softcap: float | None, kernels: Kernels | None
):
    torch.manual_seed(0)
    lengths, cache, layer = [50, 33, 7, 48], KeyValueCache(16), nn.Module()
    layer.layer_idx = 0
    data = [
        (torch.randn(heads[0], n, 8), torch.randn(heads[1], n, 8), torch.randn(heads[1], n, 8))
        for n in lengths
    ]
    sequences = [
        Tokens([0] * n, table=[4 * i + b for b in (2, 0, 3, 1)]) for i, n in enumerate(lengths)
    ]
    for count in (20, 6, 1, 1, 16, 1, 5):
        pieces = [Piece(s, min(count, s.missing)) for s in sequences if s.missing]
        pieces.sort(key=lambda piece: (piece.count > 1, -piece.sequence.computed))
        mine = [(data[sequences.index(p.sequence)], p.sequence.computed, p.count) for p in pieces]
        new = [torch.cat([d[part][:, s : s + n] for d, s, n in mine], 1)[None] for part in range(3)]
        batch = Batch(pieces, cache, torch.device("cpu"), kernels)
        found, _ = attend(layer, *new, None, batch=batch, sliding_window=window, softcap=softcap)
        parts = found[0].split([piece.count for piece in pieces])
        for part, (d, start, n) in zip(parts, mine, strict=True):
            end = start + n
            expected = reference(d[0][:, start:end], d[1][:, :end], d[2][:, :end], window, softcap)
            torch.testing.assert_close(
                part.transpose(0, 1).double(), expected, rtol=1e-4, atol=1e-5
            )
        for piece in pieces:
            piece.sequence.computed += piece.count
    assert not any(sequence.missing for sequence in sequences)


@pytest.mark.parametrize("extra", [{"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}])
def test_what_is_not_computed_is_refused(extra: dict[str, Tensor]):
    batch = Batch([], KeyValueCache(1), torch.device("cpu"))
    x = torch.zeros(1, 4, 1, 8)
    with pytest.raises(UsageError, match="biases scores or has sinks"):
        attend(nn.Module(), x, x, x, None, batch=batch, **extra)
    with pytest.raises(UsageError, match="do not hand down"):
        attend(nn.Module(), x, x, x, None)


def scores_of_first(
    rig: Rig, adapters: Sequence[Adapter | None], count: int | None = None
) -> Tensor:
    return rig.scores(TEXTS[:count], list(adapters)[:count], STEPS)[0]


def test_the_bases_rows_are_the_same_bits_whoever_else_is_in_the_batch(rig: Rig):
    adapters = [rig.adapter(name) for name in rig.directories]
    assert torch.equal(
        scores_of_first(rig, [None, *adapters]), scores_of_first(rig, [None] * len(TEXTS))
    )


def test_huge_finite_adapters_do_not_reach_other_rows(rig: Rig):
    huge = {
        name: Factors(
            torch.full((2, layer.in_features), 1e38, dtype=rig.decoder.dtype),
            torch.full((layer.out_features, 2), 1e38, dtype=rig.decoder.dtype),
        )
        for name, layer in rig.decoder.layers.items()
    }
    owners = [None, rig.adapter("wide"), rig.adapter("mixed"), None]
    quiet = rig.scores(TEXTS, [*owners, None], STEPS)
    prepared = rig.decoder.active.prepared(Adapter("huge", huge))
    loud = rig.scores(TEXTS, [*owners, prepared], STEPS)
    assert not loud[4].isfinite().any()
    for mine, owner, before in zip(loud, owners, quiet, strict=False):
        if owner is None:
            assert torch.equal(mine, before)
        assert (mine - before).abs().max() <= tolerance(rig) * before.std()


def tolerance(rig: Rig) -> float:
    """Of scores, in units of their spread, for products summed in another order."""
    return 1e-4 if rig.decoder.dtype == torch.float32 else 0.1


@pytest.mark.parametrize("name", [None, "wide"])
def test_a_request_alone_gets_what_it_gets_in_a_full_batch(rig: Rig, name: str | None):
    mine = rig.adapter(name)
    others = [rig.adapter(other) for other in ("narrow", "stable", "mixed")]
    alone = scores_of_first(rig, [mine], 1)
    batch = scores_of_first(rig, [mine, None, *others])
    assert (alone - batch).abs().max() <= tolerance(rig) * alone.std()
    if rig.decoder.dtype == torch.bfloat16 and reorders(torch.zeros(1, dtype=torch.bfloat16)):
        assert torch.equal(alone, batch)


@torch.inference_mode()
def test_bfloat16_is_as_near_to_float32_as_transformers_and_peft_are_in_bfloat16(
    base: LocalBase, adapters: dict[str, Path]
):
    """Rounding differs by the order of sums; so theirs is the measure of what bfloat16 allows.

    Root mean squares over all scores of a mixed batch. The tolerance to float32 is a quarter above
    their own error; to one another both may be as far apart as theirs is from float32.
    """
    owners = [None, *adapters]
    rig = Rig.of(base, adapters, torch.bfloat16)
    ours = rig.scores(TEXTS, [rig.adapter(name) for name in owners], STEPS)
    exact = Truth.of(base.directory, adapters)
    peers = Truth.of(base.directory, adapters, dtype=torch.bfloat16)
    errors: list[Tensor] = []
    for text, owner, mine in zip(TEXTS, owners, ours, strict=True):
        ends = ends_of(len(text))
        a, b, c = (
            scores.float().log_softmax(-1)
            for scores in (mine, peers.scores(owner, text)[ends], exact.scores(owner, text)[ends])
        )
        errors.append(torch.stack([a - c, b - c, a - b]).square().mean(dim=(1, 2)))
    of_ours, of_peers, between = torch.stack(errors).mean(0).sqrt().tolist()
    assert of_peers > 0.01
    assert of_ours <= 1.25 * of_peers
    assert between <= of_peers


def ends_of(length: int) -> list[int]:
    """Where in a text of `length` tokens the steps end."""
    ends = torch.tensor(STEPS).cumsum(0).clamp_max(length) - 1
    return sorted(set(ends.tolist()))
