"""`adapters sweep` with the processes that truly train."""

import sys
from pathlib import Path

import pytest

from adaptery.config import read_file, resolve
from adaptery.trainers.config import RunConfig
from tests.cli.conftest import House
from tests.cli.test_experiment import written
from tests.command import Outcome, adapters


def sweep(house: House, *more: object) -> Outcome:
    return adapters("sweep", house.root / "run.yaml", *more)


def test_a_sweep_writes_the_best_configuration(bare: House) -> None:
    written(bare)
    storage = f"sqlite:///{bare.root / 'sweep.db'}"
    command = ("--space", "learning_rate=1e-6,1e-2", "--sampler", "grid", "--storage", storage)
    outcome = sweep(bare, *command, "--json")
    assert outcome.code == 0, outcome.err
    data = outcome.json
    assert data["best_params"] == {"training.learning_rate": 1e-2}
    assert [row["status"] for row in data["rows"]] == ["finished", "finished"]
    losses = {row["changes"]["training.learning_rate"]: row["mean"]["loss"] for row in data["rows"]}
    assert losses[1e-2] < losses[1e-6]
    best = Path(data["best_config"])
    config = resolve(RunConfig, [read_file(best)]).value
    assert config.training.learning_rate == 1e-2
    assert config.training.max_steps == 6
    again = sweep(bare, *command)
    assert again.code == 0
    assert "training (" not in again.err
    assert "learning_rate" in again.out
    assert f"adapters train {best}" in again.err
    assert not bare.registry.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--space", "leraning_rate=1,2"), "Did you mean 'learning_rate'"),
        (("--space", "r=8,x"), "'lora.r' cannot be 'x'"),
        (("--space", "r=1:8", "--sampler", "grid"), "A grid needs lists"),
        (("--space", "r=4,8", "--metric", "acuracy"), "Did you mean 'accuracy'"),
        (("--space", "r=4,8", "--storage", "nonsense://"), "cannot be opened"),
        (("--space", "r=4,8", "--set", "data.eval=null"), "set data.eval"),
        (("--space", "r=4,8", "--trials", "0"), "--trials"),
        ((), "--space"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    bare: House, arguments: tuple[str, ...], said: str
) -> None:
    written(bare)
    outcome = sweep(bare, *arguments)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert outcome.out == ""


def test_without_optuna_the_way_to_it_is_told(bare: House, monkeypatch: pytest.MonkeyPatch) -> None:
    written(bare)
    monkeypatch.setitem(sys.modules, "optuna", None)
    outcome = sweep(bare, "--space", "r=4,8")
    assert outcome.code == 2
    assert "pip install 'adaptery[sweep]'" in outcome.err
