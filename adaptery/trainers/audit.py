"""Checks before the first step. A defect is an error, not a line in a log."""

from collections.abc import Mapping, Sequence

from adaptery.errors import DataError
from adaptery.trainers.data.rows import summarize
from adaptery.trainers.encoding import Example


def audit(
    train: Sequence[Example], held_out: Sequence[Example], max_length: int, bos: int | None
) -> None:
    """Refuse data that would train a wrong model or measure a right one wrongly.

    Raises:
        DataError: rows are longer than `max_length`, teach nothing, begin with two BOS tokens, or
            stand in both the training and the held-out rows.
    """
    rows = [*train, *held_out]
    refuse(
        [f"{row.origin}: {len(row.ids)} tokens." for row in rows if len(row.ids) > max_length],
        f"row(s) are longer than data.max_length={max_length}, and cutting them would teach "
        "cut-off answers. Raise data.max_length, or shorten or drop these rows:",
    )
    refuse(
        [row.origin for row in rows if not row.learned],
        "row(s) have no token to learn:",
    )
    refuse(
        [row.origin for row in rows if bos is not None and row.ids[:2] == (bos, bos)],
        "row(s) begin with two BOS tokens; the text already holds what the template adds:",
    )
    seen = {row.ids: row.origin for row in train}
    refuse(
        [f"{row.origin} is {seen[row.ids]}" for row in held_out if row.ids in seen],
        "held-out row(s) also stand in the training rows, so their score would be a lie. "
        "Remove them from one of the two:",
    )


def refuse(findings: list[str], what: str) -> None:
    if findings:
        raise DataError(summarize(f"{len(findings)} {what}", findings))


def check_label_words(words: Mapping[str, str], tokens: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse label words of unequal token counts, or that are the same tokens.

    Raises:
        DataError: naming words and tokens.
    """
    if len({len(ids) for ids in tokens.values()}) > 1 or len(set(tokens.values())) < len(tokens):
        listed = [f"{words[label]!r}: {list(ids)}" for label, ids in tokens.items()]
        raise DataError(summarize("Label words must differ and have equally many tokens:", listed))
