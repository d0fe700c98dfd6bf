"""Carries a LoRA adapter through its whole life: train, version, serve, roll back, merge."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.types import AdapterRef

__version__ = importlib.metadata.version("adaptery")
__all__ = ["AdapterRef", "Registry", "hookimpl", "open_registry"]

hookimpl = pluggy.HookimplMarker("adapters")
"""Marks a function of a plugin as the implementation of the hook of its name."""


def open_registry(url: str) -> "Registry":
    """The registry at `url`: a directory, `postgresql://…?blobs=URL` or `hf://org`.

    All installed plugins are told of changes.

    Raises:
        UnknownName: no registry backend has the URL's scheme.
    """
    from adaptery.plugins.manager import PluginManager

    return PluginManager().open_registry(url)


def __getattr__(name: str) -> Any:
    """The public classes, imported when they are first asked for."""
    if name == "Registry":
        from adaptery.registry.base import Registry

        return Registry
    if name == "AdapterRef":
        from adaptery.types import AdapterRef

        return AdapterRef
    raise AttributeError(f"module 'adaptery' has no attribute {name!r}")
