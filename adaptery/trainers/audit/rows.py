"""Checks of rows as texts: classes, duplicates, and rows that stand in two files."""

from collections import Counter
from collections.abc import Iterator

from adaptery.trainers.audit.parts import Part, Rules, texts_of
from adaptery.trainers.data.findings import Finding

UNEVEN = 10  # times as many rows in the largest class as in the smallest


def check_classes(part: Part, rules: Rules, *, first: bool) -> Iterator[Finding]:
    """Whether there are several classes, all of them known. `first` is the part to train on."""
    found = part.classes(rules.kind)
    if found is None:
        return
    counts = Counter(found)
    unknown = [
        f"{row.origin}: {label!r}"
        for row, label in zip(part.rows, found, strict=True)
        if rules.labels and label not in rules.labels
    ]
    if unknown:
        yield Finding(
            "unknown-label",
            "error",
            f"row(s) have a label that is none of {', '.join(rules.labels)}.",
            "Correct them, or list every label in task.labels.",
            tuple(unknown),
        )
    if len(counts) == 1 and len(found) > 1:
        yield single_class(part, found[0], certain=part.labelled(rules.kind) and first)
    elif part.labelled(rules.kind) and max(counts.values()) > UNEVEN * min(counts.values()):
        most, least = counts.most_common()[0], counts.most_common()[-1]
        yield Finding(
            "imbalance",
            "warning",
            f"{part.source} has {most[1]} rows of the class {most[0]!r} and {least[1]} of "
            f"{least[0]!r}.",
            "Consider task.weights=auto, and look at macro_f1 rather than accuracy.",
        )


def single_class(part: Part, label: str, *, certain: bool) -> Finding:
    """All rows have the same answer; an error where it is certain that classes were meant."""
    return Finding(
        "single-class",
        "error" if certain else "warning",
        f"All {len(part.rows)} rows of {part.source} are answered with {label!r}: there is nothing "
        "to tell apart.",
        "Add rows of other classes.",
    )


def check_duplicates(part: Part, rules: Rules) -> Iterator[Finding]:
    """Rows that ask the same, in one file."""
    first: dict[bytes, int] = {}
    same, conflicting = [], []
    classes = part.classes(rules.kind) is not None
    for place, prompt in enumerate(part.prompts):
        twin = first.setdefault(prompt, place)
        if twin == place:
            continue
        where = f"{part.rows[place].origin} is {part.rows[twin].origin}"
        if part.answers[place] == part.answers[twin]:
            same.append(where)
        elif classes:
            conflicting.append(f"{where}: {part.answers[place]!r}, {part.answers[twin]!r}")
    if same:
        yield Finding(
            "duplicates",
            "warning",
            f"row(s) of {part.source} repeat an earlier one.",
            "They count twice; remove them unless that is meant.",
            tuple(same),
        )
    if conflicting:
        yield Finding(
            "conflicting-labels",
            "warning",
            f"row(s) of {part.source} ask what an earlier one asks and have another label.",
            "One of each two is wrong; correct or remove it.",
            tuple(conflicting),
        )


def check_special(part: Part, rules: Rules) -> Iterator[Finding]:
    """Texts in which the tokenizer sees special tokens: a turn ended early, another one opened."""
    if rules.special is None:
        return
    found = [
        f"{row.origin}: {match[0]!r}"
        for row in part.rows
        if (match := next(filter(None, map(rules.special.search, texts_of(row))), None))
    ]
    if found:
        yield Finding(
            "special-tokens",
            "warning",
            f"row(s) of {part.source} hold a special token of the base in their text, which the "
            "model reads as that token and not as text.",
            "Remove it, unless it is meant.",
            tuple(found),
        )


def check_leakage(known: Part, other: Part) -> Iterator[Finding]:
    """Rows of `other` that ask what rows of `known` ask, whatever their answers are."""
    exact = twins(known.prompts, other.prompts)
    loose = twins(known.loose_prompts, other.loose_prompts)
    places = [told(known, other, place, twin) for place, twin in exact.items()]
    if places:
        yield Finding(
            "leakage",
            "error",
            f"of {len(other.rows)} row(s) of {other.source} also stand in {known.source}, so what "
            "is measured on them would be a lie.",
            "Remove them from one of the two files.",
            tuple(places),
        )
    near = [told(known, other, p, twin) for p, twin in loose.items() if p not in exact]
    if near:
        yield Finding(
            "near-leakage",
            "warning",
            f"of {len(other.rows)} row(s) of {other.source} differ from rows of {known.source} "
            "only in case, white space or the order of their texts.",
            "Remove them from one of the two files unless the difference matters.",
            tuple(near),
        )


def twins(known: list[bytes], others: list[bytes]) -> dict[int, int]:
    """Of the others that are known, their places and where they are known from."""
    places = {digest: place for place, digest in reversed(list(enumerate(known)))}
    return {place: places[digest] for place, digest in enumerate(others) if digest in places}


def told(known: Part, other: Part, place: int, twin: int) -> str:
    """Two rows that ask the same, in words."""
    differ = other.answers[place] != known.answers[twin]
    more = ", with another answer" if differ else ""
    return f"{other.rows[place].origin} is {known.rows[twin].origin}{more}"
