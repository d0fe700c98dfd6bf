"""A registry with two trained versions, made once by the command itself."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import done
from tests.models import write_pairs, write_rows
from tests.trainers.runs import rows


@dataclass(frozen=True)
class House:
    """A folder with `registry`, `train.jsonl` and `eval.jsonl` in it, and the base beside."""

    root: Path
    base: Path

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def at(self) -> tuple[str, Path]:
        """The flag that names the registry."""
        return ("--registry", self.registry)

    def train(self, *more: object) -> tuple[object, ...]:
        """The arguments of a short training run in fp32."""
        return (
            *("train", "--base", self.base, "--data", self.root / "train.jsonl"),
            *("--rank", 4, "--max-steps", 6, "--learning-rate", 5e-3, "--batch-size", 4),
            *("--set", "training.precision=fp32", "--runs", self.root / "runs"),
            *(self.at if "--registry" not in more else ()),
            *(("--name", "colours") if "--name" not in more else ()),
            *more,
        )

    def tree(self) -> set[Path]:
        """Everything in the folder but what a look into the registry may leave or clear away:
        its cache of unpacked versions, and SQLite's companions of the catalogue."""
        cache = self.registry / "checkouts"
        passing = ("catalogue.sqlite3-wal", "catalogue.sqlite3-shm")
        return {
            path
            for path in self.root.rglob("*")
            if not path.is_relative_to(cache) and path.name not in passing
        }


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> House:
    """`colours` with two versions: LoRA, which is live, and AdaLoRA."""
    house = House(tmp_path_factory.mktemp("house"), tiny_base)
    write_rows(house.root / "train.jsonl", rows(24))
    held_out = write_rows(house.root / "eval.jsonl", rows(9, start=40))
    done(*house.train("--eval-data", held_out, "--reason", "a beginning"))
    done(*house.train("--eval-data", held_out, "--method", "adalora", "--max-steps", 12))
    return house


@pytest.fixture
def house(original: House, tmp_path: Path) -> House:
    """A copy of it that a test may change."""
    copy = Path(shutil.copytree(original.root, tmp_path / "house"))
    shutil.rmtree(copy / "runs")
    return House(copy, original.base)


@pytest.fixture
def bare(original: House, tmp_path: Path) -> House:
    """Only the rows: no registry and no run yet."""
    root = tmp_path / "bare"
    root.mkdir()
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copy(original.root / name, root)
    return House(root, original.base)


@pytest.fixture(scope="session")
def original_pairs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> House:
    """Of a pair task `words` with two versions, which differ in their seeds, and `head` with one;
    beside them `val.jsonl`, on which training measured, and `test.jsonl`."""
    house = House(tmp_path_factory.mktemp("pairs"), tiny_base)
    write_pairs(house.root / "train.jsonl", 24)
    write_pairs(house.root / "val.jsonl", 18, start=100)
    write_pairs(house.root / "test.jsonl", 21, start=200)
    shared = ("--eval-data", house.root / "val.jsonl", "--task", "pair")
    words = (*shared, "--set", "task.words={'0': a, '1': b}")
    done(*house.train(*words, "--name", "words"))
    done(*house.train(*words, "--name", "words", "--seed", 1))
    done(*house.train(*shared, "--name", "head", "--set", "task.way=head"))
    return house


@pytest.fixture
def pairs(original_pairs: House, tmp_path: Path) -> House:
    """A copy of it that a test may change."""
    copy = Path(shutil.copytree(original_pairs.root, tmp_path / "pairs"))
    shutil.rmtree(copy / "runs")
    return House(copy, original_pairs.base)
