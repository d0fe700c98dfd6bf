"""The built-in data formats."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def data_formats() -> list[Spec]:
    return [
        Spec("messages", "chat messages of role and content", messages),
        Spec("sharegpt", "conversations of from and value", sharegpt),
        Spec("alpaca", "instruction, input, output", alpaca),
        Spec("prompt-completion", "prompt and completion, texts or messages", prompt_completion),
        Spec("text", "plain text, all of it learned", text),
        Spec("text-label", "a text and its class", text_label),
        Spec("pair", "two texts and their class", pair),
    ]


def messages() -> Any:
    from adaptery.trainers.data.chat import Messages

    return Messages()


def sharegpt() -> Any:
    from adaptery.trainers.data.chat import ShareGPT

    return ShareGPT()


def alpaca() -> Any:
    from adaptery.trainers.data.chat import Alpaca

    return Alpaca()


def prompt_completion() -> Any:
    from adaptery.trainers.data.texts import PromptCompletion

    return PromptCompletion()


def text() -> Any:
    from adaptery.trainers.data.texts import Text

    return Text()


def text_label() -> Any:
    from adaptery.trainers.data.texts import TextLabel

    return TextLabel()


def pair() -> Any:
    from adaptery.trainers.data.texts import Pair

    return Pair()
