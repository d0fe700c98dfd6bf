"""The built-in request router."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def request_routers() -> list[Spec]:
    return [Spec("by-name", "the request's model field, as it is", by_name)]


def by_name() -> Any:
    from adaptery.serving.router import ByName

    return ByName
