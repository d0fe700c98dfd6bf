"""The mathematics of choosing, against transformers' own processors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adaptery.errors import EngineError
from adaptery.serving.engine import SamplingParams
from adaptery.serving.torch.sampling import LogProbs, distribution, draw, reach

FEW = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def probabilities(scores: np.ndarray, **params) -> np.ndarray:
    """What each token of all is drawn with."""
    tokens, weights = distribution(scores, scores.max(), SamplingParams(1, **params))
    whole = np.zeros(len(scores))
    whole[slice(None) if tokens is None else tokens] = weights
    return whole / whole.sum()


def reference(scores: np.ndarray, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    """The same by transformers, in the order in which it applies these."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    warped = warpers(None, torch.from_numpy(scores).double()[None])
    return warped.softmax(-1)[0].numpy()


@example(  # few of many, nearly all of their weight, which is more than is near the best
    seed=0, spread=2.0, size=5000, temperature=0.3, top_k=300, top_p=0.999, min_p=0.0
)
@given(
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.3, 2.0, 6.0]),
    size=st.sampled_from([3, 700, 5000]),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 7, 300, 10**6]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_tokens_are_as_likely_as_transformers_makes_them(seed, spread, size, **params):
    scores = np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)
    ours, theirs = probabilities(scores, **params), reference(scores, **params)
    nothing = 1e-30  # what float32 may round to 0
    assert np.array_equal(ours > nothing, theirs > nothing)
    np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=nothing)


@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=3000),
    st.floats(0.01, 0.99),
)
def test_the_nucleus_is_the_fewest_tokens_and_of_equals_the_first(levels, top_p):
    scores = np.array(levels, np.float32)
    kept = probabilities(scores, top_p=top_p) > 0
    order = sorted(range(len(levels)), key=lambda token: (-levels[token], token))
    weights = np.exp(scores.astype(np.float64) - scores.max())
    sums = np.cumsum(weights[order]) / weights.sum()
    count = int(kept.sum())
    assert set(np.flatnonzero(kept)) == set(order[:count])
    assert sums[count - 1] >= top_p - 1e-6
    assert count == 1 or sums[count - 2] < top_p + 1e-6


def test_top_k_keeps_those_that_score_as_the_last():
    scores = np.array([1, 5, 3, 3, 3, 0], np.float32)
    assert np.flatnonzero(probabilities(scores, top_k=2)).tolist() == [1, 2, 3, 4]


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    for top_p, kept in ((1e-9, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.95, 3), (0.96, 4)):
        assert (probabilities(FEW, top_p=top_p) > 0).sum() == kept
    np.testing.assert_allclose(probabilities(FEW, top_p=0.7), [0.625, 0.375, 0, 0], rtol=1e-6)


def drawn(uniform: float, scores=FEW, **params) -> int:
    return draw(scores, SamplingParams(1, **params), uniform)


def test_a_number_from_0_to_1_finds_its_token():
    ends = [0, 0.5, 0.8, 0.95, 1]
    for token in range(4):
        assert drawn(ends[token] + 1e-6) == drawn(ends[token + 1] - 1e-6) == token
    assert drawn(0.0) == 0
    assert drawn(math.nextafter(1, 0)) == 3


def test_temperature_zero_is_greedy_and_a_tiny_one_almost():
    for temperature in (0, 1e-320, 1e-45, 1e-6):
        with np.errstate(over="ignore"):
            assert drawn(0.999999, temperature=temperature) == 0


@given(
    st.integers(0, 10**6),
    st.integers(1, 3000),
    st.sampled_from([0.0, 0.3, 0.999999]),
    st.floats(0, 1, exclude_max=True),
)
def test_drawing_block_by_block_is_the_inverse_of_the_running_sum(seed, size, zeros, uniform):
    random = np.random.default_rng(seed)
    weights = random.random(size).astype(np.float32) * (random.random(size) >= zeros)
    weights[random.integers(size)] = 1
    place = reach(weights, uniform)
    sums = np.cumsum(weights, dtype=np.float64)
    assert weights[place] > 0
    assert sums[place] - weights[place] <= uniform * sums[-1] * (1 + 1e-12)
    assert uniform * sums[-1] <= sums[place] * (1 + 1e-12)


def test_tokens_that_are_ruled_out_never_come():
    scores = np.full(2000, -np.inf, np.float32)
    scores[[7, 1500]] = 0.0, 1.0
    for uniform in (0.0, 0.2, 0.5, math.nextafter(1, 0)):
        for params in ({}, {"top_p": 0.99}, {"top_k": 5}, {"top_k": 5, "top_p": 0.99}):
            assert drawn(uniform, scores, **params) in (7, 1500)
    with pytest.raises(EngineError, match="No token is left"):
        drawn(0.5, np.full(5, -np.inf, np.float32))


def test_log_probabilities_are_those_of_torch():
    scores = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 4
    expected = scores.double().log_softmax(0)
    logprobs = LogProbs(scores.numpy())
    values, tokens = expected.topk(9)
    top = logprobs.top(9)
    assert [token for token, _ in top] == tokens.tolist()
    assert [value for _, value in top] == pytest.approx(values.tolist(), abs=1e-5)
    assert logprobs.of(17) == pytest.approx(float(expected[17]), abs=1e-5)
    assert logprobs.top(0) == ()


def test_the_top_log_probabilities_of_equals_are_the_first_tokens():
    logprobs = LogProbs(np.zeros(8, np.float32))
    assert logprobs.top(3) == tuple((token, pytest.approx(-math.log(8))) for token in range(3))
    assert len(logprobs.top(20)) == 8


def test_an_impossible_token_has_a_log_probability_that_json_can_say():
    assert LogProbs(np.array([0, -np.inf], np.float32)).of(1) == -9999.0
