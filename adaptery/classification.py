"""What it is to be asked for a class: the same words for the trainer and for the server.

Trainers put a `Classification` into the manifest, under `config.task`; whoever answers with that
version asks in the same words, adds up the same choices and decides by the same rule.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field, ValidationError

from adaptery.errors import UsageError, VerificationError
from adaptery.types import Manifest, Value

# The tag that `adapters calibrate` gives a version; its value is a JSON list, one number a label.
CALIBRATION = "calibration.offsets"
CALIBRATION_DATA, CALIBRATION_METRIC = "calibration.data", "calibration.metric"


class Classification(Value):
    """Classes in order, and how a model is asked for one.

    `words` maps each label to the word by which a decoder tells it; a head needs none.
    `instruction` is the system message that asks a decoder, empty if the text alone is the
    question; it is None where the rows were chats that each asked in their own way.
    """

    kind: Literal["classify", "pair"]
    way: Literal["words", "head"]
    labels: tuple[str, ...]
    words: dict[str, str] = Field(default={})
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
        """The chat that asks for the class of `texts`.

        Raises:
            UsageError: it was learned from chats that asked in many ways, so there is no such chat.
        """
        if self.instruction is None:
            raise UsageError(
                "This version learned its classes from chats that each asked in their own way, so "
                "texts alone are no question to it. Ask with whole chats, as in training."
            )
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

    def read_offsets(self, tags: Mapping[str, str]) -> tuple[float, ...]:
        """The calibrated offsets among a version's tags; none if it was not calibrated.

        Raises:
            VerificationError: the tag is not one finite number for each label.
        """
        text = tags.get(CALIBRATION)
        if text is None:
            return ()
        try:
            offsets = tuple(float(number) for number in json.loads(text))
        except (ValueError, TypeError):
            offsets = ()
        if len(offsets) != len(self.labels) or not all(map(math.isfinite, offsets)):
            raise VerificationError(
                f"The tag {CALIBRATION}={text} is no list of {len(self.labels)} numbers, one for "
                f"each of {', '.join(self.labels)}. Calibrate again, or take it away with "
                f"`adapters tag REF {CALIBRATION}=`."
            )
        return offsets


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """The classes that a version tells; none if it was trained for something else."""
    try:
        return Classification.of(manifest).labels
    except UsageError:
        return ()


@dataclass(frozen=True, slots=True)
class Fork:
    """Label words that begin with the tokens `begun` go on with one of `tokens`."""

    begun: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class WordTree:
    """Label words as tokens, none the beginning of another, and the choices between them.

    A word's probability is the product of the choices on its way from fork to fork. Words that part
    at their first token have one fork, however long they are.
    """

    words: tuple[tuple[int, ...], ...]

    @cached_property
    def forks(self) -> tuple[Fork, ...]:
        """Where words part, the beginning first."""
        after: dict[tuple[int, ...], set[int]] = {}
        for word in self.words:
            for place, token in enumerate(word):
                after.setdefault(word[:place], set()).add(token)
        parting = sorted((begun for begun in after if len(after[begun]) > 1), key=len)
        return tuple(Fork(begun, tuple(sorted(after[begun]))) for begun in parting)

    @cached_property
    def ways(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each word the forks on its way, and which of a fork's tokens it takes."""
        return tuple(
            tuple(
                (number, fork.tokens.index(word[len(fork.begun)]))
                for number, fork in enumerate(self.forks)
                if word[: len(fork.begun)] == fork.begun
            )
            for word in self.words
        )

    def scores(self, choices: Sequence[Sequence[float]]) -> list[float]:
        """Log-probabilities of the words among themselves.

        Args:
            choices: for each fork its tokens' log-probabilities, or scores that differ from these
                by a constant.
        """
        sure = [normalized(fork) for fork in choices]
        return [sum(sure[fork][token] for fork, token in way) for way in self.ways]


def normalized(scores: Sequence[float]) -> list[float]:
    """Scores as log-probabilities: less the logarithm of the sum of their exponentials."""
    most = max(scores)
    total = most + math.log(sum(math.exp(score - most) for score in scores))
    return [score - total for score in scores]


def default_instruction(kind: str, words: Mapping[str, str]) -> str:
    """What is asked where the user gives no instruction."""
    choice = ", ".join(words.values())
    question = {
        "classify": "Which class does this text belong to?",
        "pair": "Do these two texts belong together?",
    }[kind]
    return f"{question} Answer with one word: {choice}."


def default_words(kind: str, labels: Sequence[str]) -> list[dict[str, str]]:
    """Words for the labels where none are given, the most natural first.

    The label itself is its word. 0 and 1 of a pair become no and yes, in several cases, because not
    every tokenizer gives both equally many tokens in each.
    """
    own = {label: label for label in labels}
    if kind != "pair" or set(labels) != {"0", "1"}:
        return [own]
    return [{"0": no, "1": yes} for no, yes in (("no", "yes"), ("No", "Yes"), ("NO", "YES"))] + [
        own
    ]
