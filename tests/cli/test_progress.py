"""Progress: bars on a terminal, lines elsewhere, neither too many nor too few."""

import io
import re

import pytest
from rich.console import Console

from adaptery.cli import progress
from adaptery.cli.progress import Bars

FIGURES = {"loss": 1.25, "learning_rate": 1e-3, "tokens_per_second": 4200.0, "memory_bytes": 1.5e9}


def bars(terminal: bool = False) -> tuple[Bars, io.StringIO]:
    file = io.StringIO()
    return Bars(Console(file=file, force_terminal=terminal, width=140, markup=False)), file


def test_off_a_terminal_there_is_a_line_per_phase_and_one_now_and_then() -> None:
    shown, file = bars()
    with shown:
        shown.phase("training", 100)
        for _ in range(100):
            shown.advance(1, **FIGURES)
    lines = file.getvalue().splitlines()
    assert lines[0] == "training (100) …"
    assert len(lines) == 11
    assert lines[1].startswith("10/100  loss 1.25  rate 0.001  4,200 tokens/s  1.50 GB  ")
    assert lines[1].endswith("left")
    assert lines[-1].endswith("done")


def test_a_long_phase_is_heard_of_every_few_hundred_steps() -> None:
    shown, file = bars()
    shown.phase("training", 1_000_000)
    for _ in range(1000):
        shown.advance(1, loss=1.0)
    assert len(file.getvalue().splitlines()) == 6


def test_a_phase_without_figures_is_one_line() -> None:
    shown, file = bars()
    shown.phase("reading rows", 100)
    for _ in range(10):
        shown.advance(10)
    assert file.getvalue() == "reading rows (100) …\n"


def test_a_phase_that_goes_on_is_announced_once() -> None:
    shown, file = bars()
    for done in range(0, 30, 10):
        shown.phase("training", 30)
        shown.advance(done)
        for _ in range(10):
            shown.advance(1, loss=1.0)
        shown.phase("evaluating", 5)
        shown.advance(5)
    lines = file.getvalue().splitlines()
    assert lines.count("training (30) …") == lines.count("evaluating (5) …") == 1
    assert [line.split("/")[0] for line in lines if line[0].isdigit()] == [
        str(step) for step in range(3, 31, 3)
    ]


def test_the_time_left_counts_only_what_was_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    shown, file = bars()
    shown.phase("training", 100)
    shown.advance(88)  # before a resume
    shown.advance(1, loss=1.0)
    shown.advance(1, loss=1.0)
    assert file.getvalue().splitlines()[-1] == "90/100  loss 1  10 s left"


def test_figures_that_are_not_measured_now_stay() -> None:
    shown, file = bars()
    shown.phase("training", 2)
    shown.advance(1, **FIGURES)
    shown.advance(1, learning_rate=5e-4)
    assert "loss 1.25  rate 0.0005  4,200 tokens/s" in file.getvalue().splitlines()[-1]


def test_a_terminal_shows_a_bar_with_the_same_figures() -> None:
    shown, file = bars(terminal=True)
    with shown:
        shown.phase("training", 10)
        shown.advance(5, **FIGURES)
        shown.say("warning: [something]")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "5/10" in text
    assert "loss 1.25  rate 0.001  4,200 tokens/s  1.50 GB" in text
    assert "warning: [something]" in text
