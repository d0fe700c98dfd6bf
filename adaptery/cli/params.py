"""Arguments that name adapters, versions and aliases, and how a shell completes them.

What a shell shows while somebody types must come at once and never be an error: whatever goes
wrong, there is just nothing to offer.
"""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from adaptery.cli.context import DEFAULT_REGISTRY, open_registry
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
    return [CompletionItem(name) for name in open_registry(url).names()]


def _references(url: str, context: click.Context, incomplete: str) -> Items:
    name, at, _ = incomplete.partition("@")
    if not at or "/" in name:
        return _names(url, context, incomplete)
    standing = open_registry(url).standing(name)
    aliases = [
        CompletionItem(f"{name}@{alias}", help=f"version {number}")
        for number in standing
        for alias in standing[number].aliases
    ]
    numbers = [
        CompletionItem(f"{name}@{number}", help="yanked" if standing[number].yanked else None)
        for number in sorted(standing, reverse=True)
    ]
    return [*aliases, CompletionItem(f"{name}@{LATEST}"), *numbers]


def _aliases(url: str, context: click.Context, _incomplete: str) -> Items:
    given = str(context.params.get("ref") or context.params.get("name"))
    standing = open_registry(url).standing(given.partition("@")[0])
    known = {alias for version in standing.values() for alias in version.aliases}
    return [CompletionItem(alias) for alias in sorted(known | {LIVE})]


complete_names = _quietly(_names)
complete_references = _quietly(_references)
complete_aliases = _quietly(_aliases)

ref_argument = click.argument("ref", shell_complete=complete_references)
name_argument = click.argument("name", shell_complete=complete_names)
