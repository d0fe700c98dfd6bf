"""The whole plugin contract. Hooks only register; work is ordinary calls on what they return.

A plugin is a module (or object) under the entry-point group `adapters` that implements some of
these with `adaptery.hookimpl`. See docs/plugins.md.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from adaptery.plugins.specs import Spec
    from adaptery.types import Event, Version

hookspec = pluggy.HookspecMarker("adapters")


@hookspec
def training_methods() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Ways to train an adapter; `load()` returns an `adaptery.trainers.method.Method` class."""


@hookspec
def engines() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Ways to serve; `load()` returns what makes an `Engine` of a `LocalBase` and `ServeConfig`."""


@hookspec
def registry_backends() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Places for versions, named by URL scheme; `load()` returns a subclass of `Registry`."""


@hookspec
def exporters() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Forms to hand a version out in; `load()` returns an `adaptery.exporters.base.Exporter`."""


@hookspec
def metrics() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Scores of answers; `load()` returns a function of predictions and references to a float."""


@hookspec
def data_formats() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Layouts of rows; `load()` returns an `adaptery.trainers.data.rows.Format`."""


@hookspec
def request_routers() -> "Iterable[Spec]":  # type: ignore[empty-body]
    """Ways to choose the model of a request; `load()` returns a `Router` class."""


@hookspec
def commands() -> "Iterable[click.Command]":  # type: ignore[empty-body]
    """Further commands of `adapters`."""


@hookspec
def before_promote(version: "Version", alias: str) -> "str | None":
    """Called before `alias` moves to `version`; a returned sentence refuses it."""


@hookspec
def after_publish(event: "Event", version: "Version") -> None:
    """A version was published."""


@hookspec
def after_promote(event: "Event", version: "Version") -> None:
    """An alias was moved to a version."""


@hookspec
def after_rollback(event: "Event", version: "Version") -> None:
    """An alias was moved back to a version."""
