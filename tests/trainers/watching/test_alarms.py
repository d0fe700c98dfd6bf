"""Each alarm is raised by what it is for, and by no healthy run, real or made up."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adaptery.trainers.watching.alarms import findings
from adaptery.trainers.watching.findings import Change, Finding
from adaptery.trainers.watching.history import History
from tests.trainers.watching.curves import (
    HEALTHY,
    MEMORY,
    falling,
    made_up,
    raised,
    recorded,
    settings,
)


def found(rows: list[dict[str, float]], alarm: str, **changes: Any) -> Finding:
    """The one finding of an alarm in a run that has ended."""
    history = History.of(settings(**changes), rows)
    return next(finding for finding in findings(history) if finding.alarm == alarm)


def alarms(rows: list[dict[str, float]], **changes: Any) -> set[str]:
    return {name for name, _ in raised(settings(**changes), rows)}


@pytest.mark.parametrize("lines", [1, 2, 5])
@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm_is_raised_at_any_step_of_a_healthy_run(name: str, lines: int) -> None:
    assert list(raised(*recorded(name, lines))) == []


@pytest.mark.parametrize(
    ("name", "alarm"),
    [
        ("sections-rate-too-low", "plateau"),
        ("sections-rate-too-high", "rate"),
        ("sections-rate-too-high", "gradient_explosion"),
        ("sections-rate-far-too-high", "divergence"),
        ("texts-rate-too-high", "divergence"),
        ("texts-rate-too-high", "gradient_explosion"),
        ("texts-40-rows", "overfitting"),
        ("sections-60-rows", "overfitting"),
    ],
)
def test_real_runs_that_went_wrong_are_told_why(name: str, alarm: str) -> None:
    assert alarm in dict(raised(*recorded(name)))


def test_a_rate_far_too_high_is_known_within_ten_steps() -> None:
    assert dict(raised(*recorded("texts-rate-too-high")))["divergence"] <= 10
    config, rows = recorded("texts-rate-too-high")
    finding = next(f for f in findings(History.of(config, rows)) if f.alarm == "divergence")
    assert "0.03 is 15 times the most that lora usually bears" in str(finding)
    assert finding.changes[0].option == "training.learning_rate"
    assert finding.changes[0].better < 1e-3


def test_noise_alone_raises_no_alarm() -> None:
    """Two hundred healthy runs of batches of four, whose lines jump by a third."""
    noisy = []
    for seed in range(200):
        noise = np.random.default_rng(1000 + seed).gamma(9, 1 / 9, 90)
        rows = made_up(falling(90, seed) * noise, grad_norm=noise * 3)
        noisy += findings(History.of(settings(training__batch_size=4), rows))
    assert noisy == []


def test_memory_and_speed_of_a_healthy_run_vary() -> None:
    random = np.random.default_rng(0)
    memory = 4e9 + 5e8 * random.random(120)
    memory[:20] = np.linspace(1e9, 4e9, 20)
    speed = 5000 * random.uniform(0.6, 1.4, 120)
    figures = {"memory_bytes": memory, "tokens_per_second": speed, "seconds": 60 * np.arange(120)}
    assert not alarms(made_up(falling(120), **figures))


@pytest.mark.parametrize("name", MEMORY)
def test_memory_that_an_allocator_takes_is_no_leak(name: str) -> None:
    memory = 1e6 * np.array(MEMORY[name])
    assert memory[-1] > 1.2 * memory[0]
    for often in (1, 3):
        longer = memory.repeat(often)
        assert not alarms(made_up(falling(len(longer)), memory_bytes=longer))


def test_a_loss_that_swings_is_more_than_noise() -> None:
    swinging = 1.0 + 0.6 * (-1.0) ** np.arange(40)
    finding = found(made_up(swinging), "swing", training__learning_rate=1e-3)
    assert "swings by" in finding.symptom
    assert Change("training.learning_rate", 1e-3, 5e-4) in finding.changes
    assert "`training.learning_rate: 0.001 → 0.0005`" in str(finding)
    assert "swing" not in alarms(made_up(swinging), training__batch_size=1)


def test_a_loss_that_rises_again_is_divergence() -> None:
    losses = np.concatenate([falling(60), falling(60, 1)[::-1]])
    finding = found(made_up(losses), "divergence")
    assert "rose from" in finding.symptom
    without = found(made_up(losses), "divergence", training__warmup=0)
    assert "no warm-up" in without.cause
    assert "`training.warmup: 0 → 0.05`" in str(without)


def test_a_loss_that_falls_to_nothing_before_a_row_is_seen_twice_is_collapse() -> None:
    losses = [2.0, 1.5, 1e-5, 1e-6, 1e-6, 1e-6]
    epochs = np.linspace(0.1, 0.6, 6)
    assert "collapse" in alarms(made_up(losses, epoch=epochs))
    assert "collapse" not in alarms(made_up(losses, epoch=epochs + 2))


def test_a_loss_that_is_zero_is_collapse_whenever() -> None:
    assert "collapse" in alarms(made_up([0.0] * 6, epoch=2.5))


def test_rows_learnt_by_heart_with_much_of_the_run_to_go() -> None:
    losses = np.concatenate([np.linspace(3, 0.01, 12), np.full(28, 0.01)])
    rows = made_up(losses, epoch=np.linspace(0.5, 20, 40))
    finding = found(rows, "by_heart", training__epochs=20)
    assert finding.changes[0].option == "training.epochs"
    assert finding.changes[0].better < 20
    measured = [row | {"eval.loss": 1.0} for row in rows]
    assert "by_heart" not in alarms(measured, training__epochs=20)


def test_a_loss_that_does_not_fall_is_a_plateau() -> None:
    flat = 2.5 * np.random.default_rng(0).gamma(16, 1 / 16, 60)
    finding = found(made_up(flat), "plateau")
    assert "`training.learning_rate: 0.001 → 0.005`" in str(finding)
    better = made_up(flat)
    better[5]["eval.loss"], better[50]["eval.loss"] = 2.0, 1.9
    assert not findings(History.of(settings(), better))
    soon = settings(evaluation__every=25, data__eval="e")
    assert not findings(History.of(soon, made_up(flat)))


def test_no_two_findings_contradict_one_another() -> None:
    """A loss that swings does not fall either, but a larger step is no remedy."""
    history = History.of(settings(), made_up(1.0 + 0.6 * (-1.0) ** np.arange(40)))
    assert {finding.alarm for finding in findings(history)} == {"swing"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number(value: float) -> None:
    assert "not_a_number" in alarms(made_up([2.0, value]))


def test_a_gradient_that_leaps_is_an_explosion_where_clipping_bites() -> None:
    norms = np.ones(40)
    norms[30] = 25.0
    finding = found(made_up(falling(40), grad_norm=norms), "gradient_explosion")
    assert "25 at step 31, 25 times the median" in finding.symptom
    assert finding.step == 31
    assert not alarms(made_up(falling(40), grad_norm=norms / 50))


def test_a_gradient_that_leaps_in_the_first_steps() -> None:
    norms = np.ones(40)
    norms[2] = 98.0
    assert found(made_up(falling(40), grad_norm=norms), "gradient_explosion").step == 3
    growing = np.minimum(0.01 * 2.0 ** np.arange(40), 5)  # an adapter that begins at nothing
    assert not alarms(made_up(falling(40), grad_norm=growing))


def test_a_rate_that_nobody_uses() -> None:
    rows = made_up(falling(40), learning_rate=0.02)
    assert "no warm-up" in found(rows, "rate", training__warmup=0).cause
    assert "rate" not in alarms(made_up(falling(40), learning_rate=5e-3))
    assert "rate" in alarms(made_up(falling(40), learning_rate=5e-3), method="full")


def test_a_gradient_that_is_gone_while_the_loss_is_not() -> None:
    norms = np.where(np.arange(40) < 20, 1.0, 0.0)
    flat = falling(40)
    finding = found(made_up(flat, grad_norm=norms), "gradient_vanishing")
    assert finding.changes[0].option == "lora.targets"
    half = found(made_up(flat, grad_norm=norms), "gradient_vanishing", training__precision="fp16")
    assert half.changes == (Change("training.precision", "fp16", "bf16"),)


def test_memory_that_grows_without_a_pause() -> None:
    memory = 2e9 + 2e7 * np.arange(420)
    finding = found(made_up(falling(420), memory_bytes=memory), "memory_growth")
    assert "by step 420, 20.0 MB a step" in finding.symptom


def test_speed_that_is_halved_and_stays_so() -> None:
    speed = np.where(np.arange(60) < 40, 5000.0, 2000.0)
    hours, moments = 60 * np.arange(60), np.arange(60) / 10
    assert "slow" in alarms(made_up(falling(60), tokens_per_second=speed, seconds=hours))
    assert "slow" not in alarms(made_up(falling(60), tokens_per_second=speed, seconds=moments))
    speed[45:] = 5000
    assert "slow" not in alarms(made_up(falling(60), tokens_per_second=speed, seconds=hours))


def test_held_out_rows_that_get_worse_while_training_rows_get_better() -> None:
    rows = made_up(falling(60))
    for step, loss in [(10, 2.0), (20, 1.5), (30, 1.4), (40, 1.6), (50, 1.8), (60, 2.0)]:
        rows[step - 1]["eval.loss"] = loss
    finding = found(rows, "overfitting")
    assert "best at step 30 (1.4)" in finding.symptom
    told = str(finding)
    assert "`lora.dropout: 0 → 0.1`" in told
    assert "`evaluation.patience: none → 3`" in told
    assert "`training.epochs: 3 → 2`" in told


def test_a_gap_between_training_and_held_out_rows() -> None:
    rows = made_up(falling(60, end=0.2))
    for step in (20, 40, 60):
        rows[step - 1]["eval.loss"] = 1.9
    assert "gap" in alarms(rows)


def asked(answers: list[str], ended: bool, step: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "prompt": str(n), "answer": text, "ended": ended}
        for n, text in enumerate(answers)
    ]


PROSE = (
    "This package provides a set of tools for reading, writing and merging compressed files on "
    "the command line. It also contains a library that other programs may use for the same purpose."
)
LOOP = "the sky is blue and " * 12


def spoken(*samples: dict[str, Any]) -> set[str]:
    history = History.of(settings(), made_up(falling()), samples)
    return {finding.alarm for finding in findings(history)}


@pytest.mark.parametrize("text", [LOOP, "很好" * 20, "a " * 40])
def test_answers_that_go_round_in_circles(text: str) -> None:
    assert spoken(*asked([text, PROSE], True, 20)) == {"repetition"}


def test_prose_and_short_answers_are_no_repetition() -> None:
    assert not spoken(*asked([PROSE, "games", "yes yes"], True, 20))


def test_only_the_last_answers_count() -> None:
    assert not spoken(*asked([LOOP], True, 20), *asked([PROSE], True, 40))


def test_answers_that_never_end_twice_in_a_row() -> None:
    assert not spoken(*asked([PROSE], False, 20))
    assert not spoken(*asked([PROSE], False, 20), *asked([PROSE], True, 40))
    assert spoken(*asked([PROSE], False, 20), *asked([PROSE], False, 40)) == {"endless"}


def test_memory_that_ran_out_names_the_batch_that_fits() -> None:
    event = {"step": 3, "kind": "out_of_memory", "sentence": "…"}
    history = History.of(settings(), made_up(falling()), events=[event, event])
    (finding,) = findings(history)
    assert "`training.batch_size: 16 → 4`" in str(finding)
    assert "`training.accumulation: 1 → 4`" in str(finding)


def test_every_change_names_an_option_that_there_is() -> None:
    """And the value to try in its place is one that the configuration takes."""
    broken = made_up(np.concatenate([falling(60), falling(60, 1)[::-1] * 3]))
    for number, row in enumerate(broken):
        row |= {"grad_norm": 100.0 if number == 70 else 1.0}
        row |= {"eval.loss": 1.0 + number / 50} if number % 10 == 0 else {}
    event = {"step": 3, "kind": "out_of_memory", "sentence": "…"}
    samples = asked([LOOP], False, 20) + asked([LOOP], False, 40)
    history = History.of(settings(), broken, samples, [event])
    flat = History.of(settings(), made_up([2.0] * 40, grad_norm=0.0))
    changes = [c for h in (history, flat) for f in findings(h) for c in f.changes]
    assert len({change.option for change in changes}) >= 7
    for change in changes:
        settings(**{change.option.replace(".", "__"): change.better})


NAMES = ("loss", "grad_norm", "learning_rate", "epoch", "eval.loss", "memory_bytes", "seconds")
ODD = (0.0, 1e-300, 1e300, float("nan"), float("inf"))


@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 80),
    names=st.sets(st.sampled_from([*NAMES, "tokens_per_second"])),
    odd=st.sampled_from([0.0, 0.05, 0.9]),
    answers=st.lists(st.text(max_size=80), max_size=3),
)
@hypothesis_settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("error")
def test_no_figures_whatever_trouble_the_alarms(
    seed: int, count: int, names: set[str], odd: float, answers: list[str]
) -> None:
    """They look at every row of a run that may have taken days: one that fails would end it."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, float]] = [{"step": step} for step in range(1, count + 1)]
    for name in sorted(names):
        scale = 10.0 ** random.integers(-9, 10)
        for row in rows:
            strange = random.random() < odd
            row[name] = float(random.choice(ODD) if strange else scale * random.random())
    samples = asked(answers, False, 1) + asked(answers, False, 2)
    for finding in findings(History.of(settings(), rows, samples)):
        assert str(finding)
        assert finding.data["sentence"]
