"""Label words: the loss of a word is a sum over its tokens, so all must have equally many."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from string import ascii_uppercase

from adaptery.errors import DataError
from adaptery.trainers.audit.parts import Part, Rules
from adaptery.trainers.data.findings import DefectiveData, Finding
from adaptery.trainers.encoding import IGNORED

TokensOf = Callable[[str], tuple[int, ...]]
CASES = (str.lower, str.capitalize, str.upper)


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
        "label words are not all of different tokens, so they cannot be told apart."
        if alike
        else "label words have unequally many tokens, so the loss favours the short ones."
    )
    found = suggest_words(words, tokens_of) if tokens_of else {}
    proposal = ", ".join(f"{label!r}: {word!r}" for label, word in found.items())
    raise DefectiveData(
        [
            Finding(
                "label-words",
                "error",
                what,
                f"These would do: task.words={{{proposal}}}."
                if found
                else "Choose other words with task.words, such as yes and no, or A, B and C.",
                tuple(f"{words[label]!r}: tokens {list(ids)}" for label, ids in tokens.items()),
            )
        ]
    )


def suggest_words(words: Mapping[str, str], tokens_of: TokensOf) -> dict[str, str]:
    """Words of equally many tokens, no two the same; empty if none are found.

    First the given ones all in another case, then letters, then numbers.
    """
    cases = [[change(word) for word in words.values()] for change in CASES]
    for series in [*cases, list(ascii_uppercase), [str(number) for number in range(len(words))]]:
        chosen = dict(zip(words, series, strict=False))
        ids = [tokens for word in chosen.values() if (tokens := tokens_or_none(word, tokens_of))]
        if len(set(ids)) == len(words) and len(set(map(len, ids))) == 1:
            return chosen
    return {}


def tokens_or_none(word: str, tokens_of: TokensOf) -> tuple[int, ...]:
    """A word's tokens; none if it cannot stand as an answer."""
    try:
        return tokens_of(word)
    except DataError:
        return ()


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
