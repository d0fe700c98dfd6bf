"""The built-in registry backends, by URL scheme."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec

TEAM = "a team: catalogue in PostgreSQL, files in object storage"


@hookimpl
def registry_backends() -> list[Spec]:
    return [
        Spec("file", "a folder: SQLite catalogue and content-addressed blobs", directory),
        Spec("postgresql", TEAM, team),
        Spec("postgres", TEAM, team),
        Spec("hf", "the Hugging Face Hub: hf://ORG, a repository per adapter", hub),
    ]


def directory() -> Any:
    from adaptery.registry.local import LocalRegistry

    return LocalRegistry


def hub() -> Any:
    from adaptery.registry.hub.registry import HubRegistry

    return HubRegistry


def team() -> Any:
    from adaptery.registry.team import TeamRegistry

    return TeamRegistry
