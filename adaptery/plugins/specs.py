"""What hooks return: a name, a line about it, and how to load the thing itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PLUGIN_GROUP = "adapters"  # of entry points


@dataclass(frozen=True, slots=True)
class Spec:
    """A registered thing. `load` does the heavy imports and is called only when it is used."""

    name: str
    summary: str
    load: Callable[[], Any]
