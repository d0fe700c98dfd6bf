"""What label words and heads share: the classes, their weights, and rows as texts with a class."""

from collections import Counter
from collections.abc import Sequence

from adaptery.classification import Classification, default_instruction, default_words
from adaptery.errors import ConfigError, DataError
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import MOST_FINDINGS, Completion, Conversation, Labelled, Row


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
    """What a head is shown of a row: the texts, or of a chat what the user says before the label."""
    if isinstance(row, Labelled):
        return row.texts
    assert isinstance(row, Conversation)  # label_of has refused the others
    return ("\n".join(m.content for m in row.prompt if m.role == "user"),)


def in_order(labels: set[str]) -> tuple[str, ...]:
    """Numbers by size, words by the alphabet."""
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
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
    words = default_words(kind, labels) | settings.words if settings.way == "words" else {}
    instruction = settings.instruction
    if settings.way == "words" and instruction is None:
        instruction = default_instruction(kind, words)
    return Classification(
        kind=kind, way=settings.way, labels=labels, words=words, instruction=instruction
    )


def check_labels(rows: Sequence[Row], found: Sequence[str], labels: tuple[str, ...]) -> None:
    """Refuse labels that are not listed, and data of a single class."""
    wrong = [f"{row.origin} ({label!r})" for row, label in zip(rows, found, strict=True)]
    wrong = [text for text, label in zip(wrong, found, strict=True) if label not in labels]
    if wrong:
        raise DataError(
            f"{len(wrong)} row(s) have a label that is none of {', '.join(labels)}: "
            f"{', '.join(wrong[:MOST_FINDINGS])}. Correct them, or list all in task.labels."
        )
    if len(set(found)) < 2:
        raise DataError(
            f"All {len(rows)} rows are of the class {found[0]!r}: there is nothing to tell apart. "
            "Add rows of the other classes."
        )


def class_weights(settings: TaskConfig, classes: Classification, rows: Sequence[Row]) -> list[float]:
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
        return [len(rows) / (len(labels) * counts[label]) if counts[label] else 0.0 for label in labels]
    given = settings.weights
    if given.keys() != set(labels) or min(given.values()) <= 0:
        raise ConfigError(
            f"task.weights must give a positive number to each of {', '.join(labels)}; "
            f"it is {given}. Or write weights: auto."
        )
    mean = sum(given[label] * counts[label] for label in labels) / len(rows)
    return [given[label] / mean for label in labels]
