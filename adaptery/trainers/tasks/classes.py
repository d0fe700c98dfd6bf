"""What label words and heads share: the classes, their weights, and rows as texts with a class."""

import re
from collections import Counter
from collections.abc import Sequence

from adaptery.classification import Classification, default_instruction, default_words
from adaptery.errors import ConfigError, DataError, brief
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Completion, Conversation, Labelled, Row, summarize

NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


def label_of(row: Row, kind: str) -> str:
    """The class of a row.

    Raises:
        DataError: it has none, or another number of texts than the task compares.
    """
    wanted = 2 if kind == "pair" else 1
    if isinstance(row, Completion):
        raise DataError(
            f"{row.origin}: the row has no class. The task {kind!r} takes texts with a label, or "
            "chat messages whose last answer is the label; for others use the task 'sft'."
        )
    if isinstance(row, Labelled):
        if len(row.texts) != wanted:
            raise DataError(
                f"{row.origin}: the row has {len(row.texts)} text(s), and the task {kind!r} takes "
                f"{wanted}. Set task.kind to {'pair' if len(row.texts) == 2 else 'classify'!r}."
            )
        return row.label
    return row.answer.strip()


def texts_of(row: Row) -> tuple[str, ...]:
    """What a head is shown of a row: the texts, or of a chat what the user says in it."""
    if isinstance(row, Labelled):
        return row.texts
    assert isinstance(row, Conversation)  # label_of has refused the others
    return ("\n".join(m.content for m in row.prompt if m.role == "user"),)


def in_order(labels: set[str]) -> tuple[str, ...]:
    """Whole numbers by size, words by the alphabet."""
    if all(NUMBER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def find_classes(settings: TaskConfig, rows: Sequence[Row]) -> Classification:
    """The task with nothing left open: labels found in the rows, words and question filled in.

    Raises:
        DataError: rows have no class, or only one class is among them, or one that is not listed.
        ConfigError: a label word is given for no label.
    """
    kind = settings.kind
    assert kind != "sft"
    found = [label_of(row, kind) for row in rows]
    labels = settings.labels or in_order(set(found))
    check_labels(rows, found, labels)
    strange = sorted(settings.words.keys() - set(labels))
    if strange:
        raise ConfigError(f"task.words names {strange[0]!r}, but the labels are {list(labels)}.")
    words: dict[str, str] = {}
    instruction = None
    if settings.way == "words":
        words = default_words(kind, labels)[0] | settings.words
        instruction = instruction_of(settings, words, rows)
    return Classification(
        kind=kind, way=settings.way, labels=labels, words=words, instruction=instruction
    )


def instruction_of(settings: TaskConfig, words: dict[str, str], rows: Sequence[Row]) -> str | None:
    """What asks for the class beside the texts: as given, the default, or what all chats say.

    Raises:
        ConfigError: an instruction is given for chats, which have their own.
    """
    given = settings.instruction
    chats = [row for row in rows if isinstance(row, Conversation)]
    if not chats:
        return default_instruction(settings.kind, words) if given is None else given
    common = common_instruction(chats) if settings.kind == "classify" else None
    if given not in (None, common):
        raise ConfigError(
            "task.instruction is for rows that hold texts alone; these are chats, which ask by "
            "themselves. Take it out."
        )
    return common


def common_instruction(chats: Sequence[Conversation]) -> str | None:
    """The system message of all chats, empty if none has one; None if they ask in several ways."""
    found = set()
    for chat in chats:
        roles = [message.role for message in chat.prompt]
        if roles not in (["user"], ["system", "user"]):
            return None
        found.add(chat.prompt[0].content if len(roles) == 2 else "")
    return found.pop() if len(found) == 1 else None


def class_numbers(classes: Classification, rows: Sequence[Row]) -> list[int]:
    """Each row's class as its place among the labels.

    Raises:
        DataError: rows are of a class that the task does not have.
    """
    numbers = {label: number for number, label in enumerate(classes.labels)}
    found = [label_of(row, classes.kind) for row in rows]
    strange = [
        f"{row.origin}: {brief(label)}"
        for row, label in zip(rows, found, strict=True)
        if label not in numbers
    ]
    if strange:
        known = ", ".join(classes.labels)
        raise DataError(
            summarize(
                f"{len(strange)} row(s) are of a class that is not among those learned ({known}), "
                "so every answer to them would be wrong. Correct or remove them:",
                strange,
            )
        )
    return [numbers[label] for label in found]


def check_labels(rows: Sequence[Row], found: Sequence[str], labels: tuple[str, ...]) -> None:
    """Refuse labels that are not listed, and data of a single class."""
    wrong = [
        f"{row.origin}: {brief(label)}"
        for row, label in zip(rows, found, strict=True)
        if label not in labels
    ]
    if wrong:
        what = f"{len(wrong)} row(s) have a label that is none of {', '.join(labels)}."
        raise DataError(summarize(f"{what} Correct them, or list all in task.labels:", wrong))
    if len(set(found)) < 2:
        raise DataError(
            f"All {len(rows)} rows are of the class {found[0]!r}: there is nothing to tell apart. "
            "Add rows of the other classes."
        )


def class_weights(
    settings: TaskConfig, classes: Classification, rows: Sequence[Row]
) -> list[float]:
    """What each class counts for in the loss, 1 on average over the rows.

    `auto` is inverse frequency, so that all classes together count alike and the rare ones are not
    drowned: rows / (classes x rows of the class).

    Raises:
        ConfigError: a weight is given for no label, missing, or not positive.
    """
    labels = classes.labels
    if settings.weights == "none":
        return [1.0] * len(labels)
    counts = Counter(label_of(row, settings.kind) for row in rows)
    if settings.weights == "auto":
        even = len(rows) / len(counts)
        return [even / counts[label] if counts[label] else 0.0 for label in labels]
    given = settings.weights
    if given.keys() != set(labels) or min(given.values()) <= 0:
        raise ConfigError(
            f"task.weights must give a positive number to each of {', '.join(labels)}; "
            f"it is {given}. Or write weights: auto."
        )
    mean = sum(given[label] * counts[label] for label in labels) / len(rows)
    return [given[label] / mean for label in labels]
