"""Label words: the loss of a word is a sum over its tokens, so all must have equally many."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from string import ascii_uppercase

from adaptery.trainers.audit.parts import Part, Rules
from adaptery.trainers.data.findings import DefectiveData, Finding
from adaptery.trainers.encoding import IGNORED

TokensOf = Callable[[str], tuple[int, ...]]


def check_label_words(
    words: Mapping[str, str],
    tokens: Mapping[str, tuple[int, ...]],
    tokens_of: TokensOf | None = None,
) -> None:
    """Do nothing if label words can be told apart fairly: equally many tokens, no two the same.

    Args:
        words: the word of each label.
        tokens: the tokens of each label's word where an answer stands.
        tokens_of: the tokens of any other word there, by which words are found that would do.

    Raises:
        DefectiveData: naming the words with their tokens, and words that would do.
    """
    alike = {ids for ids, count in Counter(tokens.values()).items() if count > 1}
    lengths = {len(ids) for ids in tokens.values()}
    if not alike and len(lengths) == 1:
        return
    what = (
        "Label words must be different tokens, or they cannot be told apart"
        if alike
        else "Label words must have equally many tokens, or the loss favours the short ones"
    )
    found = suggest_words(words, tokens_of) if tokens_of else {}
    proposal = ", ".join(f"{label!r}: {word!r}" for label, word in found.items())
    raise DefectiveData(
        [
            Finding(
                "label-words",
                "error",
                f"{what}.",
                f"These would do: task.words={{{proposal}}}."
                if found
                else "Choose other words with task.words, such as yes and no, or A, B and C.",
                tuple(f"{words[label]!r}: tokens {list(ids)}" for label, ids in tokens.items()),
            )
        ]
    )


def suggest_words(words: Mapping[str, str], tokens_of: TokensOf) -> dict[str, str]:
    """Words of equally many tokens, as much like the given ones as there are; empty if none.

    The given words in another case or cut short come first, then letters and numbers.
    """
    variants = {label: variants_of(word) for label, word in words.items()}
    known = {word: tokens_of(word) for some in variants.values() for word in some}
    for length in sorted({len(ids) for ids in known.values()}):
        chosen = choose({k: [w for w in v if len(known[w]) == length] for k, v in variants.items()})
        if chosen and len({known[word] for word in chosen.values()}) == len(words):
            return chosen
    for series in (list(ascii_uppercase), [str(n) for n in range(len(words))]):
        chosen = dict(zip(words, series, strict=False))
        ids = [tokens_of(word) for word in chosen.values()]
        if len(ids) == len(words) == len(set(ids)) and len({len(i) for i in ids}) == 1:
            return chosen
    return {}


def variants_of(word: str) -> list[str]:
    """A word in other cases and its first parts, the likest first."""
    cases = [word, word.lower(), word.capitalize(), word.upper()]
    parts = [part for part in word.replace("-", " ").replace("_", " ").split() if part != word]
    return list(dict.fromkeys([*cases, *parts]))


def choose(candidates: Mapping[str, list[str]]) -> dict[str, str]:
    """For each label its first candidate that no other label has; empty if one has none."""
    chosen: dict[str, str] = {}
    for label, some in candidates.items():
        word = next((word for word in some if word not in chosen.values()), None)
        if word is None:
            return {}
        chosen[label] = word
    return chosen


def uneven_answers(part: Part, rules: Rules) -> Iterator[Finding]:
    """Chat answers that look like classes and have unequally many tokens: the loss of `sft` counts
    each token, so long ones weigh more."""
    classes = part.classes(rules.kind)
    if rules.kind != "sft" or classes is None or not part.examples:
        return
    lengths = {
        label: sum(token != IGNORED for token in row.labels[len(row.prompt) :]) - 1
        for label, row in zip(classes, part.examples, strict=True)
    }
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{label!r} {length}" for label, length in sorted(lengths.items()))
        yield Finding(
            "uneven-answers",
            "warning",
            f"The answers of {part.source} look like classes and have unequally many tokens "
            f"({listed}), so the loss counts the long ones more.",
            "Consider task.kind=classify.",
        )
