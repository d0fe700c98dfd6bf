"""Finds plugins, keeps who registered what, and asks and tells them of promotions."""

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pluggy

from adaptery.errors import PluginError, UnknownName
from adaptery.plugins import hookspecs
from adaptery.plugins.specs import PLUGIN_GROUP, Spec

if TYPE_CHECKING:
    import click

    from adaptery.registry.base import Registry
    from adaptery.types import Event, Version

BUILTIN = "adaptery"
BUILTIN_PLUGINS = (
    *("lora", "qlora", "loraplus", "adalora"),
    *("engines", "registries", "exporters", "metrics", "formats", "routers"),
)
KINDS = {
    "training_methods": "training method",
    "engines": "engine",
    "registry_backends": "registry backend",
    "exporters": "exporter",
    "metrics": "metric",
    "data_formats": "data format",
    "request_routers": "request router",
}
OBSERVERS = {
    "published": "after_publish",
    "promoted": "after_promote",
    "rolled back": "after_rollback",
}


class PluginWarning(UserWarning):
    """A plugin was left out, or failed while it was only being told something."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A spec and the distribution that registered it."""

    spec: Spec
    owner: str


class PluginManager:
    """The plugins of one process; make a fresh one per test.

    Args:
        entry_points: where third-party plugins come from; the installed distributions' by default.
    """

    def __init__(self, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> None:
        self.pluggy = pluggy.PluginManager("adapters")
        self.pluggy.add_hookspecs(hookspecs)
        self.owners: dict[int, str] = {}
        for name in BUILTIN_PLUGINS:
            self.register(importlib.import_module(f"adaptery.plugins.builtin.{name}"), BUILTIN)
        found = (
            importlib.metadata.entry_points(group=PLUGIN_GROUP)
            if entry_points is None
            else entry_points
        )
        for entry_point in found:
            self.register_entry_point(entry_point)

    def register(self, plugin: object, owner: str) -> None:
        """Add a plugin that `owner` (a distribution's name) brings."""
        self.owners[id(plugin)] = owner
        self.pluggy.register(plugin)

    def register_entry_point(self, entry_point: importlib.metadata.EntryPoint) -> None:
        """Add an installed plugin; a broken one becomes one warning that names its distribution."""
        owner = entry_point.dist.name if entry_point.dist else entry_point.value
        try:
            self.register(entry_point.load(), owner)
        except Exception as error:  # noqa: BLE001 - whatever somebody else's import raises
            leave_out(owner, error)

    def registered(self, hook: str) -> dict[str, Registered]:
        """All that plugins registered under `hook`, by name.

        Raises:
            PluginError: two plugins claim one name.
        """
        found: dict[str, Registered] = {}
        for item in self.collect(hook, Spec):
            other = found.setdefault(item.spec.name, item)
            if other is not item:
                raise PluginError(
                    f"Both {other.owner} and {item.owner} register a {KINDS[hook]} named "
                    f"{item.spec.name!r}. Uninstall one of them, or have one renamed."
                )
        return found

    def load(self, hook: str, name: str) -> Any:
        """What is registered under `hook` as `name`, loaded.

        Raises:
            UnknownName: nothing is; the message names what is there.
            PluginError: it cannot be imported.
        """
        known = self.registered(hook)
        if name not in known:
            raise UnknownName(
                KINDS[hook], name, known, "`adapters plugins` lists who registers what."
            )
        try:
            return known[name].spec.load()
        except ImportError as error:
            raise PluginError(
                f"The {KINDS[hook]} {name!r} of {known[name].owner} cannot be loaded: {error}. "
                "Install what it needs, for example with: pip install 'adaptery[all]'"
            ) from error

    def commands(self) -> "dict[str, click.Command]":
        """Commands that plugins add, by name."""
        import click

        found: dict[str, click.Command] = {}
        for owner, result in self.results("commands"):
            for command in result:
                if not isinstance(command, click.Command) or command.name is None:
                    leave_out(owner, TypeError(f"{command!r} is no named click command"))
                elif command.name in found:
                    raise PluginError(
                        f"{owner} adds a command {command.name!r} that is there already."
                    )
                else:
                    found[command.name] = command
        return found

    def open_registry(self, url: str) -> "Registry":
        """The registry at `url`: a directory, or whatever backend has the URL's scheme.

        Raises:
            UnknownName: no backend has that scheme.
        """
        scheme = urlsplit(url).scheme if "://" in url else "directory"
        backend: type[Registry] = self.load("registry_backends", scheme)
        return backend.open(url, hooks=self)

    def objections(self, version: "Version", alias: str) -> list[str]:
        """Why `alias` must not move to `version`, say plugins. One that fails objects."""
        calls = self.implementations("before_promote", version=version, alias=alias)
        reasons = []
        for owner, call in calls:
            try:
                reason = call()
            except Exception as error:  # noqa: BLE001 - a gate that cannot be asked must stay shut
                reason = f"{owner} could not check it ({type(error).__name__}: {error})."
            if reason:
                reasons.append(str(reason))
        return reasons

    def notify(self, event: "Event", version: "Version") -> None:
        """Tell plugins of a change. It has happened, so one that fails is only warned about."""
        for owner, call in self.implementations(
            OBSERVERS[event.kind], event=event, version=version
        ):
            try:
                call()
            except Exception as error:  # noqa: BLE001 - somebody else's code, after the fact
                warnings.warn(
                    f"{owner} failed after {event.kind}: {error}", PluginWarning, stacklevel=2
                )

    def collect(self, hook: str, kind: type[Spec]) -> Iterator[Registered]:
        """Each spec that implementations of `hook` return, with its owner."""
        for owner, result in self.results(hook):
            for item in result:
                if isinstance(item, kind):
                    yield Registered(item, owner)
                else:
                    leave_out(owner, TypeError(f"{hook} returned {item!r}, not a Spec"))

    def results(self, hook: str) -> Iterator[tuple[str, list[Any]]]:
        """What each implementation of a registering hook returns; one that fails is left out."""
        for owner, call in self.implementations(hook):
            try:
                yield owner, list(call())
            except Exception as error:  # noqa: BLE001 - one broken plugin must not stop the others
                leave_out(owner, error)

    def implementations(
        self, hook: str, **arguments: Any
    ) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Each implementation of `hook` as an owner and a call, in order of registration."""
        for implementation in getattr(self.pluggy.hook, hook).get_hookimpls():
            wanted = {name: arguments[name] for name in implementation.argnames}

            def call(
                function: Callable[..., Any] = implementation.function,
                wanted: dict[str, Any] = wanted,
            ) -> Any:
                return function(**wanted)

            yield self.owners[id(implementation.plugin)], call

    def plugins(self) -> list[tuple[str, str, list[str]]]:
        """Every plugin: its owner, its name, and the hooks that it implements."""
        rows = []
        for plugin in self.pluggy.get_plugins():
            name = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__
            hooks = [caller.name for caller in self.pluggy.get_hookcallers(plugin) or []]
            rows.append((self.owners[id(plugin)], name, sorted(hooks)))
        return sorted(rows)


def leave_out(owner: str, error: Exception) -> None:
    warnings.warn(
        f"The plugin of {owner} is broken and was left out: {type(error).__name__}: {error}",
        PluginWarning,
        stacklevel=3,
    )
