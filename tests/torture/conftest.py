"""One warm template for the session, and the figures at its end."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.torture.tracing import ROOT, Template

Report = Callable[..., None]
_FIGURES = pytest.StashKey[dict[tuple[str, str], dict[str, int]]]()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    with Template(tmp_path_factory.mktemp("template")) as template:
        yield template


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Hub in a process of its own, and a cache of it here."""
    root = tmp_path / "hub"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub_peer", "--root", str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "arena" / "cache"))
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """`report("kills", "promote", points=89, lost=0)` adds to a row of the closing table."""

    def add(table: str, row: str, **figures: int) -> None:
        rows = request.config.stash.setdefault(_FIGURES, {})
        row_figures = rows.setdefault((table, row), defaultdict(int))
        for name, count in figures.items():
            row_figures[name] += count

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(_FIGURES, {})
    if rows:
        terminalreporter.section("torture")
    for (table, row), figures in rows.items():
        said = ", ".join(f"{count:,} {name}" for name, count in figures.items())
        terminalreporter.write_line(f"{table:<10} {row:<40} {said}")
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for (table, _), figures in rows.items():
        for name, count in figures.items():
            totals[table, name] += count
    for (table, name), count in totals.items():
        terminalreporter.write_line(f"{table:<10} {'all':<40} {count:,} {name}")


_ALL = pytest.param(True, id="all", marks=pytest.mark.torture)


@pytest.fixture(params=[pytest.param(False, id="short"), _ALL])
def exhaustive(request: pytest.FixtureRequest) -> bool:
    """Whether to try every point there is (`make torture`) or a few of them (`make test`)."""
    return bool(request.param)
