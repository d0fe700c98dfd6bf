"""A prompt beside answers gets as many tokens as it may cost them."""

import pytest

from adaptery.serving.torch.pace import LEAST, SHORT, STALL, UNKNOWN, Pace

LONG = SHORT + 1  # tokens that a prompt misses


def learned(answers: float = 0.05, token: float = 0.001) -> Pace:
    """After many steps of these costs, of all kinds."""
    pace = Pace(512)
    for _ in range(30):
        pace.measured(8, 0, answers)
        pace.measured(0, 100, 100 * token)
        pace.measured(8, 40, answers + 40 * token)
    return pace


def test_prompts_alone_get_all_there_is():
    assert Pace(512).budget(0, 3, LONG) == 512
    assert learned().budget(0, 3, LONG) == 512


def test_little_is_risked_before_anything_is_known():
    assert Pace(512).budget(4, 1, LONG) == UNKNOWN
    assert Pace(20).budget(4, 1, LONG) == 20


def test_costs_are_learned_and_a_prompt_adds_its_share_to_a_step():
    pace = learned(answers=0.05, token=0.0005)
    assert pace.answers == pytest.approx(0.05, rel=0.01)
    assert pace.token == pytest.approx(0.0005, rel=0.01)
    assert pace.budget(8, 1, LONG) == pytest.approx(STALL * 0.05 / 0.0005, rel=0.05)


def test_where_more_wait_than_are_answered_a_step_may_take_longer():
    pace = learned()
    assert pace.budget(2, 8, LONG) == pytest.approx(4 * pace.budget(8, 8, LONG), rel=0.1)


def test_costs_that_change_are_learned_anew():
    pace = learned(answers=0.05)
    for _ in range(40):
        pace.measured(8, 0, 0.2)
    assert pace.answers == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9])
def test_whatever_is_measured_every_prompt_goes_on(seconds: float):
    pace = Pace(512)
    for answering, tokens in [(0, 5), (3, 5), (3, 0), (3, 5), (0, 5), (3, 5)] * 3:
        pace.measured(answering, tokens, seconds)
        assert min(LEAST, 512) <= pace.budget(16, 1, LONG) <= 512


def test_steps_may_be_smaller_than_the_least():
    pace = learned(token=1.0)
    assert pace.budget(8, 1, LONG) == LEAST
    pace.limit = 3
    assert pace.budget(8, 1, LONG) == 3


def test_a_short_prompt_is_computed_in_one_step_unless_a_step_has_fewer_tokens() -> None:
    pace = learned()
    assert pace.budget(64, 1, SHORT) == SHORT > pace.budget(64, 1, SHORT + 1)
    pace.limit = 20
    assert pace.budget(64, 1, SHORT) == 20
