"""Keys and values in blocks, and how many of them there is room for."""

import pytest
import torch

from adaptery.errors import DoesNotFit
from adaptery.serving.config import ServeConfig
from adaptery.serving.torch import memory
from adaptery.serving.torch.blocks import BLOCK
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.memory import cache_blocks

CPU = torch.device("cpu")


@pytest.fixture
def cache() -> KeyValueCache:
    """Two layers; the first has 2 heads of 4 numbers, the second 1 of 8 keys and 6 values."""
    cache = KeyValueCache(4)
    places = torch.tensor([0])
    cache.write(0, places, torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    cache.write(1, places, torch.zeros(1, 1, 8), torch.zeros(1, 1, 6))
    return cache


def test_what_is_written_is_read_in_the_order_of_the_table(cache: KeyValueCache):
    torch.manual_seed(0)
    keys, values = torch.randn(2, 20, 4), torch.randn(2, 20, 4)
    places = [3 * BLOCK + i for i in range(16)] + [1 * BLOCK + i for i in range(4)]
    cache.write(0, torch.tensor(places), keys, values)
    found = cache.read(0, torch.tensor([[3, 1], [1, cache.nobodys]]))
    for read, written in zip(found, (keys, values), strict=True):
        assert read.shape == (2, 2, 2 * BLOCK, 4)
        assert torch.equal(read[0, :, :20], written)
        assert torch.equal(read[1, :, :4], written[:, 16:])
        assert (read[0, :, 20:] == 0).all()
        assert (read[1, :, 4:] == 0).all()


def test_layers_may_differ_in_their_heads(cache: KeyValueCache):
    keys, values = torch.randn(1, 3, 8), torch.randn(1, 3, 6)
    cache.write(1, torch.arange(3), keys, values)
    cache.read(0, torch.tensor([[0, 1, 2]]))
    read = cache.read(1, torch.tensor([[0]]))
    assert torch.equal(read[0][0, :, :3], keys)
    assert torch.equal(read[1][0, :, :3], values)
    assert cache.bytes_per_token() == (2 * 4 + 2 * 4 + 8 + 6) * 4


def test_what_is_not_finite_is_seen_and_cleared(cache: KeyValueCache):
    bad = torch.ones(2, 1, 4)
    bad[1, 0, 2] = torch.nan
    cache.write(0, torch.tensor([2 * BLOCK + 5]), torch.ones(2, 1, 4), bad)
    assert cache.finite([0, 1, 3])
    assert cache.finite([])
    assert not cache.finite([1, 2])
    cache.clear([])
    assert not cache.finite([2])
    cache.clear([2, 0])
    assert cache.finite([2])
    assert all((read == 0).all() for read in cache.read(0, torch.tensor([[2]])))


def test_another_size_has_the_same_layers_and_nothing_in_it(cache: KeyValueCache):
    cache.write(0, torch.tensor([0]), torch.ones(2, 1, 4), torch.ones(2, 1, 4))
    larger = cache.resized(9)
    assert (larger.blocks, larger.nobodys) == (9, 9)
    assert larger.bytes_per_token() == cache.bytes_per_token()
    for layer in (0, 1):
        assert all((read == 0).all() for read in larger.read(layer, torch.arange(10)[None]))


def test_a_size_that_cannot_be_had_is_refused_in_a_sentence(cache: KeyValueCache):
    with pytest.raises(DoesNotFit, match=r"cache of .* could not be allocated.*--max-context"):
        cache.resized(10**13)


def config(**options: object) -> ServeConfig:
    return ServeConfig(base="x", max_sequences=4, **options)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> int:
    """A megabyte of memory is free."""
    monkeypatch.setattr(memory, "available_memory", lambda _: 10**6)
    return 10**6


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    ("options", "context", "blocks"),
    [
        ({}, 100, 4 * 7),  # for as many requests as may run
        ({}, 1600, 312),  # half of what is free
        ({"kv_memory": 999_999}, 100, 624),
        ({"kv_memory": 7 * 1600}, 100, 7),
    ],
)
def test_the_cache_has_room_for_all_or_for_what_is_given(options, context, blocks):
    assert cache_blocks(config(**options), context, 100, CPU) == blocks


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    ("options", "context", "why"),
    [
        ({}, 6000, "there is room for 0.0 GB"),
        ({"kv_memory": 7 * 1600 - 1}, 100, "--kv-memory allows"),
        ({"kv_memory": 2_000_000}, 100, "--kv-memory asks for"),
    ],
)
def test_a_cache_too_small_for_one_request_or_too_large_is_refused(options, context, why):
    with pytest.raises(DoesNotFit, match=why):
        cache_blocks(config(**options), context, 100, CPU)
