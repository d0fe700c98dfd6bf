"""The training benchmark in small: all train the same, and its tables say what was measured."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from benchmarks.train import RACES, Run, Score, bars, curves, report, write_rows
from benchmarks.train_peers import Clock, measure
from tests.models import write_rows as write_chats
from tests.trainers.runs import rows


@pytest.fixture
def options(tmp_path: Path, tiny_base: Path) -> argparse.Namespace:
    """Six steps of four rows, the loss measured three times after the first."""
    return argparse.Namespace(
        base=str(tiny_base),
        train=str(write_chats(tmp_path / "train.jsonl", rows(24))),
        held_out=str(write_chats(tmp_path / "held_out.jsonl", rows(6, start=100))),
        rows=4,
        batch_tokens=64,
        steps=6,
        points=3,
    )


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Trainer leaves its arithmetic behind for the whole process."""
    yield
    AcceleratorState._reset_state(True)


def trained(options: argparse.Namespace, contender: str) -> Clock:
    options.contender = contender
    return measure(options)


def test_all_see_the_same_tokens_and_come_to_the_same_loss(options: argparse.Namespace) -> None:
    ours, peer = trained(options, "adaptery"), trained(options, "trainer")
    assert [step[:2] for step in ours.steps] == [step[:2] for step in peer.steps]
    assert len(ours.steps) == 6
    assert all(seconds > 0 for _, _, seconds, _ in ours.steps)
    assert [tokens for tokens, _ in ours.curve] == [tokens for tokens, _ in peer.curve]
    assert len(ours.curve) == 4
    assert ours.curve[-1][1] < ours.curve[0][1] - 0.5
    for (_, one), (_, other) in zip(ours.curve, peer.curve, strict=True):
        assert one == pytest.approx(other, rel=0.03)


def made(tokens: int, seconds: float, peak: int, loss: float) -> Run:
    warm = [(tokens, 2, 9.0, 9.0)] * 3
    steps = [(tokens, 2, seconds, seconds)] * 4 + [(tokens, 2, 50.0, 50.0)]
    return Run([*warm, *steps], [(0, 5.0), (100, loss)], peak)


def scores() -> dict[str, Score]:
    return {
        "adaptery": Score.of([made(100, 0.5, 900, 2.0), made(100, 0.5, 1000, 2.0)]),
        "trainer-256": Score.of([made(100, 1.0, 2000, 2.1)]),
        "trl": Score.of([made(100, 0.6, 950, 2.2)]),
        "trl-256-1": Score.of([made(100, 2.0, 3000, 2.2)]),
    }


def test_the_median_step_decides_and_the_highest_peak() -> None:
    ours = scores()["adaptery"]
    assert ours.tokens == 200
    assert ours.learned == 4
    assert ours.peak_bytes == 1000


def test_bars_are_against_each_peer_at_its_best() -> None:
    notes, packs, memory = bars(scores())
    assert "2.00 × Trainer" in notes
    assert notes.endswith("met")
    assert "1.20 × SFTTrainer" in packs
    assert packs.endswith("met")
    assert "1.05 ×" in memory
    assert memory.endswith("missed")


def test_tables_have_a_line_for_each_contender_and_each_point() -> None:
    table = report(RACES["tiny"], scores())
    assert "| Trainer + PEFT, padded to 256 | 100 | 2 | 0.00 GB | 2.00 × as fast |" in table
    assert curves(scores())[-1] == (
        "| 1 of 1 | 2.000 (100) | 2.100 (100) | 2.200 (100) | 2.200 (100) |"
    )


def test_the_rows_of_a_race_are_as_many_as_its_steps_need(tmp_path: Path) -> None:
    train, held_out = write_rows(tmp_path, RACES["half-billion"])
    assert len(train.read_text(encoding="utf-8").splitlines()) == 80
    assert len(held_out.read_text(encoding="utf-8").splitlines()) == 16
