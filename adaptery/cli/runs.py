"""`adapters runs`: what training runs left, and what those that go on are doing."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import json_option, one_line, print_json, print_table, stderr, stdout
from adaptery.cli.progress import duration, shown
from adaptery.errors import ConfigError, Interrupted, ReferenceNotFound, UsageError, join, suggest

if TYPE_CHECKING:
    from adaptery.trainers.run_directory import RunDirectory

PAUSE = 0.5  # seconds between two looks at a run that is followed

folder_option = click.option(
    "--runs",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default="runs, or ADAPTERS_RUNS",
    envvar="ADAPTERS_RUNS",
    metavar="DIR",
    help="Where run directories are.",
)


@click.group("runs")
def runs_command() -> None:
    """List, show, follow, plot and diagnose training runs.

    RUN is the path of a run directory, or the beginning of a name under --runs.
    """


@runs_command.command("list")
@folder_option
@json_option
def list_command(folder: Path, as_json: bool) -> None:
    """List the runs, newest first."""
    from adaptery.trainers.watching.diagnosis import described

    lines = [described(run) for run in runs_in(folder)]
    if as_json:
        print_json(lines)
    elif not lines:
        stderr().print(f"There is no run in {folder} yet: adapters train makes one.")
    else:
        columns = ("run", "method", "status", "step ", "loss ", "best ", "time ", "version")
        print_table(columns, map(cells, lines))


def cells(line: dict[str, Any]) -> tuple[object, ...]:
    """A run as a row of the table."""
    best = line["best"]
    return (
        line["run"],
        line["method"],
        line["status"],
        line["step"],
        number(line["loss"]),
        f"{number(best['loss'])} at {best['step']}" if best else None,
        duration(line["seconds"]),
        line["version"],
    )


def strict(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what JSON has no word for: NaN and infinities become null."""
    odd = {key for key, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return row | dict.fromkeys(odd)


def number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


@runs_command.command("show")
@click.argument("run")
@folder_option
@json_option
def show_command(run: str, folder: Path, as_json: bool) -> None:
    """Show one run: how it stands, its figures, what happened."""
    from adaptery.trainers.watching.diagnosis import described, scores

    found = find_run(run, folder)
    line, events, metrics = described(found), found.events(), scores(found)
    if as_json:
        config = found.config().model_dump(mode="json")
        more = {"metrics": metrics, "events": events, "origins": found.origins()}
        rows = [strict(row) for row in found.metrics()]
        print_json(strict(line) | more | {"config": config, "rows": rows})
        return
    facts = {key: value for key, value in line.items() if value is not None}
    facts |= {"time": duration(facts.pop("seconds"))}
    facts |= {"loss": number(line["loss"]), "best": cells(line)[5]} if line["loss"] else {}
    measured = [(f"held-out {name}", number(value)) for name, value in metrics.items()]
    print_table(["what", "value"], [*facts.items(), *measured])
    if events:
        told = [(event["step"], event["kind"], event["sentence"]) for event in events]
        print_table(["step ", "event", "told"], told)


@runs_command.command("tail")
@click.argument("run")
@folder_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many of the last rows.",
)
@json_option
def tail_command(run: str, folder: Path, follow: bool, count: int, as_json: bool) -> None:
    """Print a run's last figures, and with -f those that come."""
    import json

    found = find_run(run, folder)
    try:
        for row in figures(found, count, follow):
            click.echo(json.dumps(strict(row)) if as_json else one_line(in_words(row)))
    except KeyboardInterrupt:  # the usual way to stop following; nothing went wrong
        raise click.exceptions.Exit(Interrupted.exit_code) from None
    if follow:
        stderr().print(f"{found.path.name}: {found.status.told}.", soft_wrap=True)
    elif not found.metrics():
        stderr().print(f"There are no figures yet in {found.path}.", soft_wrap=True)


def figures(run: "RunDirectory", count: int, follow: bool) -> Iterator[dict[str, Any]]:
    """The last rows, then those that are added until the run is over."""
    seen: dict[int, dict[str, Any]] = {}
    first = True
    while True:
        over = run.status.over  # asked first, so that what it wrote last is read
        rows = run.metrics()
        for row in rows[-count:] if first else rows:
            if seen.get(row["step"]) != row:
                yield row
        seen, first = {row["step"]: row for row in rows}, False
        if over or not follow:
            return
        time.sleep(PAUSE)


def in_words(row: dict[str, Any]) -> str:
    """A row of metrics in a line."""
    measured = [
        f"held-out {name.removeprefix('eval.')} {value:.4g}"
        for name, value in row.items()
        if name.startswith("eval.")
    ]
    return "  ".join([f"step {row['step']}", *shown(row), *measured])


@runs_command.command("plot")
@click.argument("run")
@folder_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="F.png|F.html",
    help="A picture or a whole report; by default curves.png in the run directory.",
)
def plot_command(run: str, folder: Path, output: Path | None) -> None:
    """Draw a run's curves, or write its report as one HTML file."""
    found = find_run(run, folder)
    path = output or found.path / "curves.png"
    kind = path.suffix.lower()
    if kind not in (".png", ".html"):
        raise UsageError(f"--output must end in .png or .html, and {path} does not.")
    write_html(found, path) if kind == ".html" else write_png(found, path)
    click.echo(path)


def write_png(run: "RunDirectory", path: Path) -> None:
    from adaptery.trainers.watching.plots import save_curves

    rows = run.metrics()
    if not rows:
        raise ConfigError(f"{run.path} holds no figures yet, so there is nothing to draw.")
    save_curves(rows, path)


def write_html(run: "RunDirectory", path: Path) -> None:
    from adaptery.trainers.watching.report import html_report

    path.write_text(html_report(run), encoding="utf-8")


@runs_command.command("diagnose")
@click.argument("run")
@folder_option
@json_option
def diagnose_command(run: str, folder: Path, as_json: bool) -> None:
    """Say what is wrong with a run, why that may be, and which option to change."""
    from adaptery.trainers.watching.diagnosis import diagnose

    found = find_run(run, folder)
    findings = diagnose(found)
    if as_json:
        print_json([finding.data for finding in findings])
        return
    rows = len(found.metrics())
    if not findings:
        what = f"Nothing is wrong with {found.path.name}" if rows else "There are no figures yet"
        stdout().print(f"{what}: {rows} rows of metrics were looked at.", soft_wrap=True)
    for finding in findings:
        stdout().print(f"{finding.alarm}: {finding}", soft_wrap=True)


def runs_in(folder: Path) -> list["RunDirectory"]:
    """The run directories in a folder, those that began last first."""
    from adaptery.trainers.run_directory import RunDirectory

    paths = [path.parent for path in folder.glob("*/config.yaml")]
    paths.sort(key=lambda path: ((path / "config.yaml").stat().st_mtime, path.name), reverse=True)
    return [RunDirectory(path) for path in paths]


def find_run(name: str, folder: Path) -> "RunDirectory":
    """The run that a path or the beginning of a name means.

    Raises:
        ReferenceNotFound: there is none, or more than one.
    """
    from adaptery.trainers.run_directory import RunDirectory

    if (Path(name) / "config.yaml").is_file():
        return RunDirectory(Path(name))
    runs = runs_in(folder)
    whole = [run for run in runs if run.path.name == name]
    found = whole or [run for run in runs if run.path.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(run.path.name for run in found)
        raise ReferenceNotFound(f"{name!r} begins the names of {len(found)} runs: {names}.")
    known = suggest(name, (run.path.name for run in runs))
    raise ReferenceNotFound(join(f"There is no run {name!r} in {folder}.", known))
