"""What is wrong with a run, from what it left behind."""

from typing import Any

from adaptery.errors import ConfigError
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.alarms import findings
from adaptery.trainers.watching.alarms.held_out import worse_than_base
from adaptery.trainers.watching.findings import Change, Finding, too_high
from adaptery.trainers.watching.history import History

ENDS = {"killed", "failed", "interrupted"}


def diagnose(run: RunDirectory) -> list[Finding]:
    """Every finding, how the run ended first.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    history = History.of(run.config(), run.metrics(), run.samples(), run.events())
    found = [ending(run, history), *findings(history), worse_than_base(scores(run), history)]
    return [finding for finding in found if finding]


def scores(run: RunDirectory) -> dict[str, float]:
    """The final metrics, the base's as `base.loss` and so on; none of a run that has not ended."""
    metrics: dict[str, Any] = run.result().get("metrics", {})
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def ending(run: RunDirectory, history: History) -> Finding | None:
    """That the run did not come to its end, and how to go on."""
    status = run.status
    if status.state not in ENDS:
        return None
    step = max(history["loss"].steps, default=0)
    verb = "failed" if status.state == "failed" else f"was {status.state}"
    changes: tuple[Change, ...] = ()
    if status.error == "VerificationError":  # the loss became no number
        _, changes = too_high(history)
    again = f"`adapters train --resume {run.path}`" if run.can_resume else "starting it anew"
    symptom = f"The run {verb} after step {step}."
    return Finding(status.state, step, symptom, status.sentence, changes, again)


def described(run: RunDirectory) -> dict[str, Any]:
    """A run in one line: name, method, how it stands, how far it came."""
    rows, status, result = run.metrics(), run.status, run.result()
    losses = [row["loss"] for row in rows if "loss" in row]
    measured = [(row["eval.loss"], row["step"]) for row in rows if "eval.loss" in row]
    best = min(measured, default=None)
    try:
        config = run.config()
        name, method = config.name, config.method
    except ConfigError:  # of another adaptery; the run is there all the same
        name, method = run.path.name, result.get("method", "")
    return {
        "run": run.path.name,
        "path": str(run.path),
        "name": name,
        "method": method,
        "status": status.state,
        "version": status.version or None,
        "step": max((row["step"] for row in rows), default=0),
        "loss": losses[-1] if losses else None,
        "best": {"loss": best[0], "step": best[1]} if best else None,
        "seconds": round(status.seconds or result.get("seconds", 0), 1),
        "started": status.started or None,
        "error": status.sentence or None,
    }
