"""What a shell offers while somebody types, asked as bash asks, and in a bash on a terminal."""

import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.adapters import make_adapter
from tests.command import adapters, done

ROOT = Path(__file__).parents[2]
BREAKS = "\"'@><=;|&(:"  # bash's own COMP_WORDBREAKS, but for the white space
SECONDS = 0.3
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`support` with versions 1 (yanked), 2 (live) and 3 (canary), and `supper`."""
    folder = tmp_path_factory.mktemp("stocked")
    registry = LocalRegistry.open(str(folder / "registry"))
    for seed in range(1, 4):
        registry.publish("support", make_adapter(folder / str(seed), seed=seed))
    registry.publish("supper", make_adapter(folder / "4", seed=4))
    registry.promote(AdapterRef("support", number=2))
    registry.promote(AdapterRef("support", number=3), "canary")
    registry.yank(AdapterRef("support", number=1), "it swears")
    return folder / "registry"


def environment(registry: Path, **more: str) -> dict[str, str]:
    """That of a shell in which `adapters` is this checkout's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "ADAPTERS_REGISTRY": str(registry)}
    return {**os.environ, **own, **more}


def asked(registry: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What the command answers to bash at the end of `line`."""
    asking = {"_ADAPTERS_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_BREAKS": BREAKS}
    return subprocess.run(
        [sys.executable, "-m", "adaptery.cli"],
        env=environment(registry, **asking),
        capture_output=True,
        text=True,
        check=True,
    )


def offered(registry: Path, line: str) -> list[str]:
    """The words that are offered at the end of `line`."""
    answer = asked(registry, line)
    assert answer.stderr == ""
    return [row.partition(",")[2] for row in answer.stdout.splitlines() if row]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("adapters show ", ["supper", "support"]),
        ("adapters show suppo", ["support"]),
        ("adapters show support@", ["@live", "@canary", "@latest", "@3", "@2", "@1"]),
        ("adapters show support@l", ["@live", "@latest"]),
        ("adapters show supper@", ["@live", "@latest", "@1"]),
        ("adapters show support@sha256:", []),
        ("adapters show nothing@", []),
        ("adapters show hf://org/sup", []),
        ("adapters pull ", []),
        ("adapters diff support@2 support@c", ["@canary"]),
        ("adapters verify support@2 supp", ["supper", "support"]),
        ("adapters promote support@2 --to ", ["canary", "live"]),
        ("adapters promote support@2 --alias ca", ["canary"]),
        ("adapters promote support@2 --to=ca", ["canary"]),
        ("adapters rollback support --alias c", ["canary"]),
        ("adapters rollback sup", ["supper", "support"]),
        ("adapters history support@", []),
        ("adapters list s", ["supper", "support"]),
        ("adapters ya", ["yank"]),
        ("adapters show --f", ["--files"]),
    ],
)
def test_what_comes_next_is_offered(stocked: Path, line: str, words: list[str]) -> None:
    found = offered(stocked, line)
    assert sorted(found) == sorted(words)


def test_aliases_are_offered_before_numbers_and_the_newest_first(stocked: Path) -> None:
    words = ["@canary", "@live", "@latest", "@3", "@2", "@1"]
    assert offered(stocked, "adapters show support@") == words


def test_a_registry_named_in_the_line_is_the_one_that_is_asked(
    stocked: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert offered(elsewhere, "adapters show s") == []
    assert offered(elsewhere, f"adapters show --registry {stocked} suppo") == ["support"]
    assert not elsewhere.exists()


def test_a_registry_that_cannot_be_read_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite3").write_bytes(b"no database" * 100)
    assert offered(tmp_path, "adapters show s") == []
    assert offered(tmp_path, "adapters show support@") == []


def test_all_commands_are_offered_without_loading_any(stocked: Path) -> None:
    assert {"train", "list", "yank", "completion"} <= set(offered(stocked, "adapters "))


@pytest.mark.parametrize("line", ["adapters ", "adapters show sup", "adapters show support@"])
def test_an_offer_comes_at_once(stocked: Path, line: str) -> None:
    """In the process' own time, so that a busy machine does not fail it; best of five."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        asked(stocked, line)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < SECONDS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(shell: str) -> None:
    script = done("completion", shell).out
    assert f"_ADAPTERS_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def test_no_other_shell_is_known() -> None:
    outcome = adapters("completion", "csh")
    assert outcome.code == 2
    assert "fish" in outcome.err


@bash
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("adapters show suppo\t", "adapters show support "),
        ("adapters show support@can\t", "adapters show support@canary "),
        ("adapters promote support@2 --to=can\t", "adapters promote support@2 --to=canary "),
        ("adapters hist\t", "adapters history "),
    ],
)
def test_bash_on_a_terminal_completes_the_word(stocked: Path, typed: str, completed: str) -> None:
    screen = on_a_terminal(stocked, typed)
    assert completed in screen


def on_a_terminal(registry: Path, typed: str) -> str:
    """What an interactive bash shows after this was typed."""
    child, terminal = pty.fork()
    if child == 0:
        options = ["--norc", "--noprofile", "-i"]
        os.execvpe("bash", ["bash", *options], environment(registry, TERM="dumb", PS1="ready> "))
    try:
        os.write(terminal, b'eval "$(adapters completion bash)"; PS1=now"> "\n')
        read_until(terminal, "now> ")
        os.write(terminal, typed.encode())
        return read_until(terminal, typed.split()[-1].strip(), quiet=1.5)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def read_until(terminal: int, text: str, quiet: float = 0.0) -> str:
    """What appears until `text` has, and then nothing more for `quiet` seconds."""
    screen, end = "", time.monotonic() + 60
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], quiet or 0.1)
        if ready:
            screen += os.read(terminal, 4096).decode()
        elif text in screen:
            break
    return screen
