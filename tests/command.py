"""The `adapters` command in this process, as a fresh one would run it."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from adaptery.cli.context import plugins
from adaptery.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, all of which is one JSON value."""
        return json.loads(self.out)


def adapters(*arguments: object) -> Outcome:
    """Run `adapters` with these arguments."""
    plugins.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    """Run a command that must succeed."""
    outcome = adapters(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome
