"""Choosing tokens."""

from collections import Counter

import pytest
import torch

from adaptery.serving.engine import SamplingParams
from adaptery.serving.torch.sampling import Sampler

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def frequencies(draws: int = 4000, **params) -> dict[int, float]:
    sampler = Sampler(SamplingParams(max_tokens=1, seed=7, **params))
    counts = Counter(sampler.choose(LOGITS) for _ in range(draws))
    return {token: count / draws for token, count in counts.items()}


def test_tokens_come_as_often_as_they_are_likely():
    expected = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}
    assert frequencies() == pytest.approx(expected, abs=0.03)


def test_temperature_sharpens_and_flattens():
    assert frequencies(temperature=0.5)[0] == pytest.approx(0.25 / 0.365, abs=0.03)
    assert frequencies(temperature=2.0)[0] < 0.42


def test_temperature_zero_is_greedy_and_a_tiny_one_almost():
    assert frequencies(50, temperature=0) == {0: 1.0}
    assert frequencies(50, temperature=1e-6) == {0: 1.0}


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    assert set(frequencies(top_p=0.5)) == {0}
    assert frequencies(top_p=0.7) == pytest.approx({0: 0.625, 1: 0.375}, abs=0.03)
    assert set(frequencies(top_p=0.81)) == {0, 1, 2}
    assert set(frequencies(top_p=1e-9)) == {0}


def test_any_whole_number_is_a_seed():
    for seed in (-1, 0, 2**63, 2**70):
        first, second = (
            Sampler(SamplingParams(1, seed=seed)).choose(torch.zeros(1000)) for _ in range(2)
        )
        assert first == second


def test_without_a_seed_answers_differ():
    drawn = {Sampler(SamplingParams(1)).choose(torch.zeros(100_000)) for _ in range(5)}
    assert len(drawn) > 1
