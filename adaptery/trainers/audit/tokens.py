"""Checks of rows as tokens: what is learned, where it begins and ends, how long it is."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from adaptery.trainers.audit.parts import Part, Rules
from adaptery.trainers.data.findings import Finding
from adaptery.trainers.encoding import IGNORED, Example


def check_tokens(part: Part, rules: Rules) -> Iterator[Finding]:
    """All that can be wrong with the examples of one part."""
    yield from check_lengths(part, rules)
    checks: list[tuple[str, Callable[[Example], bool], str, str]] = [
        (
            "nothing-learned",
            lambda row: not row.learned,
            "row(s) have no token to learn: every label is masked, the loss would be 0 and the "
            "model would not change.",
            "Give each an answer, or remove them.",
        ),
        (
            "two-bos",
            lambda row: rules.begin is not None and row.ids[:2] == (rules.begin,) * 2,
            "row(s) begin with two BOS tokens.",
            "Remove the BOS from the text or the template; the tokenizer or template puts one.",
        ),
        (
            "end-token-masked",
            lambda row: ends(row, rules) == "masked",
            "row(s) hold an end token behind an answer that is masked, so the model would never "
            "learn to stop.",
            "The end token must be learned with the answer.",
        ),
        (
            "no-end-token",
            lambda row: ends(row, rules) == "missing",
            "row(s) have an answer without an end token, so the model would never learn to stop.",
            "Correct the tokenizer's eos_token or its template.",
        ),
    ]
    for code, wrong, message, remedy in checks:
        places = tuple(row.origin for row in part.examples if wrong(row))
        if places:
            yield Finding(code, "error", message, remedy, places)


def check_lengths(part: Part, rules: Rules) -> Iterator[Finding]:
    """Rows longer than they may be, or than the base can take."""
    drop = rules.too_long == "drop"
    kept = [row for row in part.examples if len(row.ids) <= rules.max_length]
    places = tuple(
        f"{row.origin}: {len(row.ids)} tokens"
        for row in part.examples
        if len(row.ids) > rules.max_length
    )
    if places:
        yield Finding(
            "too-long",
            "warning" if drop and kept else "error",
            f"row(s) are longer than data.max_length={rules.max_length}, and cutting them would "
            "teach cut-off answers.",
            "They are dropped."
            if drop and kept
            else "Raise data.max_length, shorten the rows, or leave them out with "
            "data.too_long=drop.",
            places,
        )
    beyond = tuple(
        f"{row.origin}: {len(row.ids)} tokens"
        for row in kept
        if rules.limit is not None and len(row.ids) > rules.limit
    )
    if beyond:
        yield Finding(
            "beyond-base",
            "error",
            f"row(s) are longer than the {rules.limit} tokens that the base can take.",
            "Shorten them, or lower data.max_length to that and set data.too_long=drop.",
            beyond,
        )


def ends(row: Example, rules: Rules) -> str:
    """How the answers of a row end: `well`, or with an end token `masked` or `missing`."""
    if rules.end is None:
        return "well"
    labels = (*row.labels, IGNORED)
    for place, (label, after) in enumerate(pairwise(labels)):
        if label not in (IGNORED, rules.end) and after == IGNORED:
            return "masked" if row.ids[place + 1 : place + 2] == (rules.end,) else "missing"
    return "well"


def within(rows: Sequence[Example], max_length: int) -> list[Example]:
    """The rows that are not longer; what `data.too_long=drop` leaves."""
    return [row for row in rows if len(row.ids) <= max_length]
