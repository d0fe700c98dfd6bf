"""What it is to be asked for a class: the same words for the trainer and for the server.

Trainers put a `Classification` into the manifest, under `config.task`; whoever answers with that
version asks in the same words and decides by the same rule.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from adaptery.errors import UsageError
from adaptery.types import Manifest, Value

# The tag that `adapters calibrate` gives a version; its value is a JSON list, one number a label.
CALIBRATION = "calibration.offsets"


class Classification(Value):
    """Classes in order, and how a model is asked for one.

    `words` maps each label to the word by which a decoder tells it; a head needs none.
    """

    kind: Literal["classify", "pair"]
    way: Literal["words", "head"]
    labels: tuple[str, ...]
    words: dict[str, str] = {}
    instruction: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "Classification":
        """The classification that a version was trained for.

        Raises:
            UsageError: it was trained for something else.
        """
        task = manifest.config.get("task")
        if not isinstance(task, dict) or task.get("kind") not in ("classify", "pair"):
            raise UsageError(
                "This version was not trained to tell classes (its task is neither classify nor "
                "pair), so it has no label words or thresholds."
            )
        try:
            return cls.model_validate({name: task.get(name) for name in cls.model_fields})
        except ValidationError as error:
            raise UsageError(f"The manifest's task cannot be understood: {error}") from error

    @property
    def texts(self) -> int:
        """How many texts a question has."""
        return 2 if self.kind == "pair" else 1

    def messages(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """The chat that asks for the class of `texts`."""
        asked = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return [*asked, {"role": "user", "content": self.question(texts)}]

    def question(self, texts: Sequence[str]) -> str:
        """The user's message."""
        if len(texts) == 1:
            return texts[0]
        return "\n".join(f"Text {number}: {text}" for number, text in enumerate(texts, 1))

    def decide(self, scores: Sequence[float], offsets: Sequence[float] = ()) -> str:
        """The label of the highest log-probability, each raised by its calibrated offset first.

        For two classes this is the notes' threshold: the second wins where
        `scores[1] - scores[0] > offsets[0] - offsets[1]`.
        """
        raised = [s + o for s, o in zip(scores, offsets or (0.0,) * len(scores), strict=True)]
        return self.labels[max(range(len(raised)), key=raised.__getitem__)]


def default_instruction(kind: str, words: Mapping[str, str]) -> str:
    """What is asked where the user gives no instruction."""
    choice = ", ".join(words.values())
    question = {
        "classify": "Which class does this text belong to?",
        "pair": "Do these two texts belong together?",
    }[kind]
    return f"{question} Answer with one word: {choice}."


def default_words(kind: str, labels: Sequence[str]) -> dict[str, str]:
    """The label itself is its word; 0 and 1 of a pair become no and yes."""
    named: dict[str, Any] = {"0": "no", "1": "yes"} if kind == "pair" else {}
    return {label: named.get(label, label) for label in labels}
