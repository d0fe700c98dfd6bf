"""What requests get step by step, alone and side by side."""

import math
import pickle
import random

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from adaptery.errors import EngineError
from adaptery.serving.engine import Chunk, SamplingParams
from adaptery.serving.grammar import Grammar
from adaptery.serving.torch.answer import Answer, choose, look_here, look_there
from tests.serving.torch.test_text import TOKENIZER

VOCABULARY = len(TOKENIZER)
END = 0
KINDS = (
    {"temperature": 0},
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"top_k": 20},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.01},
    {"top_p": 0.95, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
    {"temperature": 0, "presence_penalty": 1.5},
    {"logit_bias": ((17, 3.0), (18, -100.0)), "logprobs": 4},
    {"temperature": 0, "scored": (3, 5), "min_tokens": 4},
)


def answer(prompt: list[int] = (), **params) -> Answer:
    sampling = SamplingParams(**{"max_tokens": 10**6, **params})
    return Answer(sampling, TOKENIZER, frozenset({END}), prompt, lambda item: None)


def scores(seed: int, rows: int = 1, width: int = VOCABULARY, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * spread


def only(given: torch.Tensor, one: Answer) -> Chunk:
    (chunk,) = choose([one], given)
    assert isinstance(chunk, Chunk)
    return chunk


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [VOCABULARY, 4099])
def test_what_is_drawn_does_not_depend_on_who_else_is_in_the_batch(dtype, width):
    steps = [scores(step, len(KINDS), width).to(dtype) for step in range(12)]

    def asked() -> list[Answer]:
        return [answer([1, 2, 17], seed=5, **kind) for kind in KINDS]

    alone = [[only(step[row, None], one) for step in steps] for row, one in enumerate(asked())]
    order = random.Random(1).sample(range(len(KINDS)), len(KINDS))
    together = asked()
    for number, step in enumerate(steps):
        chunks = choose([together[row] for row in order], step[order])
        assert chunks == [alone[row][number] for row in order]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_seed_repeats_an_answer_and_no_seed_does_not(kind):
    def said(**seed) -> list[int]:
        one = answer(**kind | seed)
        return [only(torch.zeros(1, VOCABULARY), one).token for _ in range(40)]

    for seed in (-1, 0, 7, 2**63, 2**70):
        assert said(seed=seed) == said(seed=seed)
    if kind.get("temperature") != 0:
        assert said() != said()
        assert said(seed=1) != said(seed=2)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    given = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    one = answer(seed=3)
    drawn = np.bincount([only(given, one).token for _ in range(4000)], minlength=4)
    expected = np.array([0.5, 0.3, 0.15, 0.05]) * 4000
    assert ((drawn - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees, 0.001


def test_greedy_takes_the_best_and_the_first_of_equals():
    given = scores(1, 6).bfloat16()
    given[2, 40] = given[2, 90] = 100
    chunks = choose([answer(temperature=0) for _ in range(6)], given)
    assert [chunk.token for chunk in chunks] == given.float().argmax(1).tolist()
    assert chunks[2].token == 40


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_scores_that_are_not_finite_end_their_request_alone(kind, value):
    given = scores(0, 3)
    given[1, 77] = value
    before = given.clone()
    first, second, third = choose([answer(seed=1, **kind) for _ in range(3)], given)
    assert isinstance(second, EngineError)
    assert "not finite" in str(second)
    assert first == only(given[:1], answer(seed=1, **kind))
    assert third == only(given[2:], answer(seed=1, **kind))
    assert torch.equal(given.nan_to_num(1.5), before.nan_to_num(1.5))  # nobody's scores are changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpus_way_of_looking_sees_what_the_accelerators_does(dtype):
    given = scores(3, 6).to(dtype)
    given[1, 5] = math.nan
    given[2, 9] = math.inf
    given[3, 9] = -math.inf
    given[4, 20] = given[4, 200] = 50
    here, there = look_here(given, [0, 3]), look_there(given, [0, 3])
    assert here[0] == there[0]
    assert here[1] == pytest.approx(there[1], nan_ok=True)
    assert here[2].keys() == there[2].keys()
    for row, seen in here[2].items():
        np.testing.assert_array_equal(seen, there[2][row])


def test_a_row_of_nothing_but_minus_infinity_is_an_error():
    (result,) = choose([answer()], torch.full((1, VOCABULARY), -math.inf))
    assert isinstance(result, EngineError)


def test_what_goes_wrong_in_a_row_is_that_rows_error(caplog):
    wrong = answer(temperature=0, logit_bias=((10**6, 1.0),))
    first, second = choose([wrong, answer(temperature=0)], scores(0, 2))
    assert isinstance(first, EngineError)
    assert isinstance(second, Chunk)
    assert "IndexError" in caplog.text


def test_no_rows_are_no_chunks():
    assert choose([], torch.zeros(0, VOCABULARY)) == []


def test_repetition_penalty_is_that_of_transformers_over_prompt_and_answer():
    prompt = [5, 9, 5, 30]
    one = answer(prompt, temperature=0, repetition_penalty=1.8)
    said: list[int] = []
    for step in range(30):
        given = scores(step, spread=1.0)
        reference = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([prompt + said]), given)
        said.append(only(given, one).token)
        assert said[-1] == int(reference.argmax())
    assert said != [int(scores(step, spread=1.0).argmax()) for step in range(30)]


def test_presence_and_frequency_penalties_are_openais_over_the_answer_alone():
    one = answer([3, 4, 5], temperature=0, presence_penalty=0.5, frequency_penalty=0.2)
    counts = torch.zeros(VOCABULARY)
    for step in range(40):
        given = scores(step % 3, spread=0.5)
        expected = given[0] - 0.2 * counts - 0.5 * (counts > 0)
        token = only(given, one).token
        assert token == int(expected.argmax())
        counts[token] += 1
    assert counts.max() > 1


def test_logit_bias_moves_scores_before_all_else():
    given = torch.zeros(1, VOCABULARY)
    assert only(given, answer(temperature=0, logit_bias=((99, 0.5),))).token == 99
    given[0, 99] = 50
    assert only(given, answer(temperature=0, logit_bias=((99, -100.0),))).token == 0
    both = answer([99], temperature=0, logit_bias=((99, 4.0), (98, 3.0)), repetition_penalty=2.0)
    assert only(torch.zeros(1, VOCABULARY), both).token == 98  # 4 / 2 < 3: penalties come after


def test_log_probabilities_are_the_models_own():
    given = scores(4)
    expected = given[0].log_softmax(0)
    params = {"temperature": 0.3, "top_k": 2, "logit_bias": ((40, 100.0),), "logprobs": 5}
    chunk = only(given, answer(scored=(7, 8), **params))
    assert chunk.token == 40
    assert chunk.logprob == pytest.approx(float(expected[40]), abs=1e-5)
    values, tokens = expected.topk(5)
    assert [token for token, _ in chunk.top_logprobs] == tokens.tolist()
    assert [value for _, value in chunk.top_logprobs] == pytest.approx(values.tolist(), abs=1e-5)
    assert chunk.scores == pytest.approx(expected[[7, 8]].tolist(), abs=1e-5)
    bare = only(given, answer(temperature=0))
    assert (bare.logprob, bare.top_logprobs, bare.scores) == (None, (), ())


def always(*tokens: int) -> torch.Tensor:
    """Scores that want these tokens, the first most."""
    given = torch.full((1, VOCABULARY), -20.0)
    for place, token in enumerate(tokens):
        given[0, token] = 10.0 - place
    return given


LETTERS = {letter: TOKENIZER(letter)["input_ids"][0] for letter in "abc"}
A, B, C = LETTERS.values()


def run(one: Answer, *given: torch.Tensor) -> list[Chunk]:
    """Chunks until the answer ends."""
    chunks = []
    for row in given:
        chunks.append(only(row, one))
        if chunks[-1].finish_reason is not None:
            break
    return chunks


def test_end_tokens_end_the_answer_without_text():
    chunks = run(answer(temperature=0), always(A), always(END), always(B))
    assert [(c.text, c.finish_reason) for c in chunks] == [("a", None), ("", "stop")]


def test_max_tokens_ends_the_answer():
    chunks = run(answer(temperature=0, max_tokens=2), *[always(A)] * 5)
    assert [c.finish_reason for c in chunks] == [None, "length"]


def test_ignore_eos_goes_on_past_end_tokens_but_not_past_stop_tokens():
    one = answer(temperature=0, ignore_eos=True, stop_token_ids=(B,))
    chunks = run(one, always(A), always(END), always(C), always(B), always(A))
    assert "".join(c.text for c in chunks) == "ac"
    assert [c.finish_reason for c in chunks] == [None, None, None, "stop"]


def test_min_tokens_rules_ends_out_before():
    one = answer(temperature=0, min_tokens=3, stop_token_ids=(B,))
    chunks = run(one, *[always(END, B, A)] * 9)
    assert [c.token for c in chunks] == [A, A, A, END]
    assert chunks[-1].finish_reason == "stop"


def test_stop_strings_count_only_after_min_tokens():
    letters = [always(letter) for letter in (A, B, A, B, A, A, B)]
    chunks = run(answer(temperature=0, min_tokens=4, stop=("ab",)), *letters)
    assert "".join(c.text for c in chunks) == "ababa"
    assert len(chunks) == 7
    assert chunks[-1].finish_reason == "stop"
    assert len(run(answer(temperature=0, stop=("ab",)), *letters)) == 2


def test_an_answer_without_a_grammar_is_ready_at_once():
    called = []
    answer().when_ready(lambda: called.append(True))
    assert called


def test_parameters_cross_to_another_process_as_they_are():
    asked = SamplingParams(
        5, seed=2**70, stop=("a",), logit_bias=((1, 2.0),), grammar=Grammar("regex", "a+", "the As")
    )
    assert pickle.loads(pickle.dumps(asked)) == asked
    assert pickle.loads(pickle.dumps(asked)).grammar.name == "the As"
    assert hash(asked)
