"""Which model a request goes to. Plugins provide other routers than the one by name."""

from collections.abc import Mapping
from typing import Any, Protocol


class Router(Protocol):
    """Chooses a model by what a request asks for and says."""

    def route(self, model: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
        """The model that answers: the base's name or a reference such as `support@canary`.

        Args:
            model: what the request's `model` field says.
            body: the request's JSON.
            headers: its HTTP headers, names in lower case.
        """


class ByName:
    """The model that was asked for."""

    def route(self, model: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
        return model
