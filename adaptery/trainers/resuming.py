"""Which run directory an interrupted run's configuration belongs to."""

from collections.abc import Iterator
from typing import Any

from adaptery.config import read_file, resolve
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.run_directory import RunDirectory

ELSEWHERE = {"runs", "report_to"}  # what may change without changing the run


def find_unfinished(config: RunConfig) -> RunDirectory:
    """The newest run of this very configuration that has not finished and can go on.

    Raises:
        ConfigError: there is none; the message says which are near, and what has changed.
    """
    known = [(run, changes(stored, config)) for run, stored in runs_of(config)]
    for run, changed in known:
        if not changed and run.status.state != "finished" and run.checkpoints.steps():
            return run
    where = f"of {config.name!r} in {config.runs}"
    anew = "Leave --resume out to start anew."
    for run, changed in known:
        if not changed and run.status.state == "finished":
            raise ConfigError(
                f"The run {run.path} with this configuration has finished; nothing is left to do. "
                f"{anew} To publish it again: adapters train --resume {run.path}"
            )
    for run, changed in known:
        if run.status.state != "finished" and run.checkpoints.steps():
            raise ConfigError(
                f"No unfinished run {where} has this configuration. The newest, {run.path}, "
                f"differs: {'; '.join(changed)}. {anew} To go on with that one as it was: "
                f"adapters train --resume {run.path}"
            )
    raise ConfigError(f"There is no unfinished run {where} with a checkpoint. {anew}")


def runs_of(config: RunConfig) -> Iterator[tuple[RunDirectory, RunConfig]]:
    """The runs of that name and their configurations, newest first."""
    files = config.runs.glob(f"{config.name}-*/config.yaml")
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            stored = resolve(RunConfig, [read_file(file)]).value
        except ConfigError:  # of an older adaptery, whose options were others
            continue
        if stored.name == config.name:
            yield RunDirectory(file.parent), stored


def changes(stored: RunConfig, config: RunConfig) -> list[str]:
    """What differs, in words."""
    was, now = (flat(one.model_dump(mode="json", exclude=ELSEWHERE)) for one in (stored, config))
    keys = sorted(was.keys() | now.keys())
    return [
        f"{key} was {was.get(key)!r} and is {now.get(key)!r}"
        for key in keys
        if was.get(key) != now.get(key)
    ]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
