"""The built-in data format."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def data_formats() -> list[Spec]:
    return [Spec("messages", "JSON Lines of chat messages", messages)]


def messages() -> Any:
    from adaptery.trainers.data.messages import read_messages

    return read_messages
