"""Arguments that name adapters, versions and aliases, and how a shell completes them.

What a shell shows while somebody types must come at once and never be an error: whatever goes
wrong, there is just nothing to offer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from adaptery.cli.context import DEFAULT_REGISTRY, open_registry
from adaptery.registry.sql import glance
from adaptery.types import LATEST, LIVE

Items = Iterable["CompletionItem[str]"]
Completer = Callable[[click.Context, click.Parameter, str], list["CompletionItem[str]"]]


def _quietly(offer: Callable[[str, click.Context, str], Items]) -> Completer:
    """A completer that offers what `offer` finds in the registry at a URL, or else nothing."""

    def complete(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list["CompletionItem[str]"]:
        url = str(context.params.get("registry") or DEFAULT_REGISTRY)
        try:
            found = offer(url, context, incomplete)
            return [item for item in found if item.value.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - no registry, no network, no such adapter: no offer
            return []

    return complete


def _names(url: str, _context: click.Context, incomplete: str) -> Items:
    if "@" in incomplete or "/" in incomplete:
        return []  # neither the name of an adapter nor the beginning of one
    root = _directory(url)
    found = glance.names(root, incomplete) if root else open_registry(url).names()
    return [CompletionItem(name) for name in found]


def _references(url: str, context: click.Context, incomplete: str) -> Items:
    name, at, _ = incomplete.partition("@")
    if not at or "/" in name:
        return _names(url, context, incomplete)
    aliases, numbers = _selectors(url, name)
    meaning = {**aliases, LATEST: None, **dict.fromkeys(map(str, numbers))} if numbers else {}
    return [
        CompletionItem(f"{name}@{selector}", help=f"version {number}" if number else None)
        for selector, number in meaning.items()
    ]


def _aliases(url: str, context: click.Context, _incomplete: str) -> Items:
    # While an option lacks its value, what was given before it has not become a parameter yet.
    given = context.params.get("ref") or context.params.get("name") or context.args[0]
    aliases, _ = _selectors(url, str(given).partition("@")[0])
    return [CompletionItem(alias) for alias in sorted({*aliases, LIVE})]


def _selectors(url: str, name: str) -> tuple[Mapping[str, int], Sequence[int]]:
    """What may stand behind the `@`: aliases with what they mean, and numbers, the last first."""
    root = _directory(url)
    if root:
        return glance.aliases(root, name), glance.numbers(root, name)
    store = open_registry(url)
    aliases = {alias.name: alias.number for alias in store.aliases(name)}
    return aliases, sorted(store.standing(name), reverse=True)


def _directory(url: str) -> Path | None:
    """Where the catalogue lies, if the registry is a directory."""
    if "://" in url.removeprefix("file://"):
        return None
    return Path(url.removeprefix("file://")).expanduser()


complete_names = _quietly(_names)
complete_references = _quietly(_references)
complete_aliases = _quietly(_aliases)

ref_argument = click.argument("ref", shell_complete=complete_references)
name_argument = click.argument("name", shell_complete=complete_names)
