"""What commands share: plugins, registry, references, output and progress."""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adaptery.plugins.manager import PluginManager

if TYPE_CHECKING:
    from rich.console import Console

    from adaptery.registry.base import Registry
    from adaptery.types import Version

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_REGISTRY = Path.home() / ".adapters" / "registry"


@functools.cache
def plugins() -> PluginManager:
    """The plugins of this invocation."""
    return PluginManager()


def open_registry(url: str) -> "Registry":
    """The registry that `--registry` names."""
    return plugins().open_registry(url)


registry_option = click.option(
    "--registry",
    metavar="URL",
    envvar="ADAPTERS_REGISTRY",
    default=str(DEFAULT_REGISTRY),
    show_default="~/.adapters/registry, or ADAPTERS_REGISTRY",
    help="Where versions are kept: a directory, postgresql://…?blobs=URL, or hf://ORG.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")
reason_option = click.option("--reason", default="", help="Why; kept in the history.")


def stdout() -> "Console":
    """Where data goes. Off a terminal: no colour, and lines as long as they are."""
    return console() if sys.stdout.isatty() else console(width=1 << 20, color_system=None)


def stderr() -> "Console":
    """Where the story goes."""
    return console(stderr=True)


def console(**options: Any) -> "Console":
    """A console that prints names and reasons as they are, brackets and colons included."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **options)


def print_json(value: Any) -> None:
    """Data for scripts."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Data for people. Columns whose name ends in a space are figures and stand at the right."""
    from rich.table import Table

    table = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        table.add_column(column.strip(), justify="right" if column.endswith(" ") else "left")
    for row in rows:
        table.add_row(*("" if cell is None else one_line(str(cell)) for cell in row))
    stdout().print(table)


def one_line(text: str) -> str:
    """A text as a table can hold it: line breaks and characters that terminals obey made visible.

    >>> one_line("first\\nsecond")
    'first ↵ second'
    """
    text = text.replace("\n", " ↵ ").replace("\t", " ")
    return "".join(c if c.isprintable() or c in "\u00a0\u200d" else ascii(c)[1:-1] for c in text)


def moment(time: datetime, *, seconds: bool = False) -> str:
    """A time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def version_data(version: "Version", aliases: Iterable[str] = ()) -> dict[str, Any]:
    """A version as JSON shows it everywhere."""
    manifest = version.manifest
    return {
        "name": version.name,
        "version": version.number,
        "digest": f"sha256:{version.digest}",
        "aliases": sorted(aliases),
        "method": manifest.method,
        "base": manifest.base.model_dump(),
        "metrics": manifest.metrics,
        "size": manifest.size,
        "created_at": version.created_at.isoformat(),
        "created_by": version.created_by,
    }


def human_size(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def figure(metrics: Mapping[str, float], name: str) -> str | None:
    """A metric as people read it."""
    return f"{metrics[name]:.3f}" if name in metrics else None
