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
    *("lora", "qlora", "loraplus", "adalora", "rslora", "dora", "pissa", "olora", "full"),
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
        self.warned: set[str] = set()
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
        """Add a plugin that `owner` (a distribution's name) brings, as a whole or not at all.

        Raises:
            pluggy.PluginValidationError: one of its hooks is unknown or takes unknown arguments.
            ValueError: it is registered already.
        """
        self.pluggy.register(plugin)
        self.owners[id(plugin)] = owner
        self.pluggy.check_pending()

    def register_entry_point(self, entry_point: importlib.metadata.EntryPoint) -> None:
        """Add an installed plugin; a broken one becomes one warning that names its distribution."""
        owner = entry_point.dist.name if entry_point.dist else entry_point.value
        plugin = None
        try:
            plugin = entry_point.load()
            self.register(plugin, owner)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever others' imports raise
            invalid = isinstance(error, pluggy.PluginValidationError)
            if invalid and self.pluggy.is_registered(plugin):
                self.pluggy.unregister(plugin)  # not half of it
            self.warn(f"The plugin of {owner} is broken and was left out: {cause(error)}")

    def registered(self, hook: str) -> dict[str, Registered]:
        """All that plugins registered under `hook`, by name.

        Raises:
            PluginError: two plugins claim one name.
        """
        found: dict[str, Registered] = {}
        for owner, spec in self.collect(hook):
            if not isinstance(spec, Spec):
                self.warn(f"{hook} of {owner} returned {spec!r}, which is no Spec.")
                continue
            item = Registered(spec, owner)
            other = found.setdefault(spec.name, item)
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
            PluginError: it cannot be loaded.
        """
        known = self.registered(hook)
        if name not in known:
            raise UnknownName(
                KINDS[hook], name, known, "`adapters plugins` lists who registers what."
            )
        try:
            return known[name].spec.load()
        except Exception as error:
            way_out = "Install what it needs, for example with: pip install 'adaptery[all]'"
            raise PluginError(
                f"The {KINDS[hook]} {name!r} of {known[name].owner} cannot be loaded: "
                f"{cause(error)}. {way_out if isinstance(error, ImportError) else ''}".rstrip()
            ) from error

    def load_all(self, hook: str) -> dict[str, Any]:
        """All that is registered under `hook`, loaded. Raises `PluginError`."""
        return {name: self.load(hook, name) for name in self.registered(hook)}

    def commands(self, taken: Iterable[str] = ()) -> "dict[str, click.Command]":
        """Commands that plugins add, by name; those `taken` are built in.

        Raises:
            PluginError: two plugins add one command, or one adds one that is taken.
        """
        import click

        found: dict[str, click.Command] = {}
        owners = dict.fromkeys(taken, BUILTIN)
        for owner, command in self.collect("commands"):
            if not isinstance(command, click.Command) or command.name is None:
                self.warn(f"commands of {owner} returned {command!r}, which is no named command.")
            elif command.name in owners:
                raise PluginError(
                    f"Both {owners[command.name]} and {owner} add a command named "
                    f"{command.name!r}. Uninstall one of them, or have one renamed."
                )
            else:
                owners[command.name], found[command.name] = owner, command
        return found

    def open_registry(self, url: str) -> "Registry":
        """The registry at `url`: a directory, or whatever backend has the URL's scheme.

        Raises:
            UnknownName: no backend has that scheme.
        """
        scheme = urlsplit(url).scheme if "://" in url else "file"
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
        hook = OBSERVERS.get(event.kind)
        if hook is None:
            return
        for owner, call in self.implementations(hook, event=event, version=version):
            try:
                call()
            except Exception as error:  # noqa: BLE001 - somebody else's code, after the fact
                warnings.warn(
                    f"{hook} of {owner} failed: {cause(error)}", PluginWarning, stacklevel=2
                )

    def collect(self, hook: str) -> Iterator[tuple[str, Any]]:
        """All that implementations of a registering hook return, each with its owner.

        One that fails is left out, whatever else its plugin brings.
        """
        for owner, call in self.implementations(hook):
            try:
                items = list(call())
            except Exception as error:  # noqa: BLE001 - one broken plugin must not stop the others
                self.warn(f"{hook} of {owner} is broken and was left out: {cause(error)}")
            else:
                yield from ((owner, item) for item in items)

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

    def warn(self, text: str) -> None:
        """Warn of a plugin, but not of the same thing again."""
        if text not in self.warned:
            self.warned.add(text)
            warnings.warn(text, PluginWarning, stacklevel=3)

    def plugins(self) -> list[tuple[str, str, list[str]]]:
        """Every plugin: its owner, its name, and the hooks that it implements."""
        rows = []
        for plugin in self.pluggy.get_plugins():
            name = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__
            hooks = [caller.name for caller in self.pluggy.get_hookcallers(plugin) or []]
            rows.append((self.owners[id(plugin)], name, sorted(hooks)))
        return sorted(rows)


def cause(error: BaseException) -> str:
    """An error with its type, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
