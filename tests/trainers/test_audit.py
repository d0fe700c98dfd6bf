"""What the audit finds, and what it lets pass."""

from ast import literal_eval

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptery.errors import DataError
from adaptery.trainers.audit import AuditReport, Part, Rules, audit, check_label_words, within
from adaptery.trainers.audit.statistics import percentile
from adaptery.trainers.audit.words import TokensOf
from adaptery.trainers.data.findings import DefectiveData, Finding
from adaptery.trainers.data.rows import Completion, Conversation, Labelled, Message, Row
from adaptery.trainers.encoding import IGNORED, Encoder, Example

BOS, EOS = 1, 2
RULES = Rules(max_length=10, begin=BOS, end=EOS)


def example(*ids: int, line: int = 1, learned: int = 1) -> Example:
    """A row of which the last `learned` tokens are learned."""
    start = len(ids) - learned
    labels = (IGNORED,) * start + ids[start:]
    return Example(ids, labels, ids[:start], "answer", f"rows.jsonl:{line}")


def tokens(*examples: Example) -> Part:
    """A part whose rows all ask something else."""
    rows = [Completion(f"{n}", f"a{n}", row.origin) for n, row in enumerate(examples)]
    return Part("rows.jsonl", "text", rows, examples)


def pairs(source: str, *rows: tuple[str, str, str]) -> Part:
    found = [Labelled((a, b), label, f"{source}:{n}") for n, (a, b, label) in enumerate(rows, 1)]
    return Part(source, "pair", found)


def chats(source: str, *rows: tuple[str, str]) -> Part:
    found: list[Row] = []
    for number, (question, answer) in enumerate(rows, 1):
        messages = Message("user", question), Message("assistant", answer)
        found.append(Conversation(messages, f"{source}:{number}"))
    return Part(source, "messages", found)


def codes(report: AuditReport) -> list[str]:
    return [finding.code for finding in report.findings]


def only(report: AuditReport, code: str) -> Finding:
    """The one finding there is, which is of that kind."""
    assert codes(report) == [code]
    return report.findings[0]


def test_sound_rows_pass() -> None:
    report = audit([tokens(example(BOS, 5, EOS, learned=2), example(*range(3, 12), EOS))], RULES)
    assert report.findings == ()
    report.refuse()


def test_a_long_row_is_named_with_its_length_and_the_option() -> None:
    part = tokens(example(5, EOS), example(*range(3, 13), EOS, line=2))
    finding = only(audit([part], RULES), "too-long")
    assert finding.severity == "error"
    assert finding.places == ("rows.jsonl:2: 11 tokens",)
    assert "data.max_length=10" in finding.message
    assert "data.too_long=drop" in finding.remedy


def test_a_long_held_out_row_is_refused_too() -> None:
    report = audit([tokens(example(5, EOS)), tokens(example(*range(3, 13), EOS))], RULES)
    assert "too-long" in codes(report)


def test_long_rows_that_are_dropped_are_a_warning_unless_none_are_left() -> None:
    rules = Rules(max_length=10, too_long="drop", begin=BOS, end=EOS)
    long = example(*range(3, 13), EOS, line=2)
    finding = only(audit([tokens(example(5, EOS), long)], rules), "too-long")
    assert finding.severity == "warning"
    assert within([example(5, EOS), long], 10) == [example(5, EOS)]
    assert only(audit([tokens(long)], rules), "too-long").severity == "error"


def test_a_row_that_the_base_cannot_take_is_refused() -> None:
    rules = Rules(max_length=10, limit=4, begin=BOS, end=EOS)
    finding = only(audit([tokens(example(5, 6, 7, 8, EOS))], rules), "beyond-base")
    assert "4 tokens" in finding.message


def test_a_row_that_teaches_nothing_is_refused() -> None:
    part = tokens(example(5, EOS), example(5, EOS, line=5, learned=0))
    assert only(audit([part], RULES), "nothing-learned").places == ("rows.jsonl:5",)


def test_a_class_that_a_head_tells_is_something_to_learn() -> None:
    row = Example((5, 6), (IGNORED, IGNORED), (5, 6), "a", "rows.jsonl:1", label=0)
    assert audit([tokens(row)], RULES).findings == ()


def test_two_bos_tokens_are_refused_and_one_is_not() -> None:
    part = tokens(example(BOS, BOS, EOS, line=3))
    assert only(audit([part], RULES), "two-bos").places == ("rows.jsonl:3",)
    assert audit([tokens(example(BOS, 5, BOS, EOS))], RULES).findings == ()
    assert audit([part], Rules(max_length=10, end=EOS)).findings == ()


def test_an_end_token_that_is_masked_is_told_from_one_that_is_missing() -> None:
    masked = Example((5, 6, EOS), (IGNORED, 6, IGNORED), (5,), "a", "rows.jsonl:1")
    assert only(audit([tokens(masked)], RULES), "end-token-masked").severity == "error"
    missing = example(5, 6, 7, learned=2)
    assert only(audit([tokens(missing)], RULES), "no-end-token").severity == "error"


def test_every_answer_of_a_conversation_must_end() -> None:
    ids = (5, 6, EOS, 7, 8, EOS)
    first = Example(ids, (IGNORED, 6, IGNORED, IGNORED, 8, EOS), (5, 6, EOS, 7), "a", "r:1")
    assert only(audit([tokens(first)], RULES), "end-token-masked")
    both = Example(ids, (IGNORED, 6, EOS, IGNORED, 8, EOS), (5, 6, EOS, 7), "a", "r:1")
    assert audit([tokens(both)], RULES).findings == ()


TRAIN = (("a cat", "a feline", "1"), ("a dog", "a tree", "0"))


def test_a_held_out_row_that_is_trained_on_is_found_whatever_its_label() -> None:
    test = pairs("test", ("new", "row", "0"), ("a dog", "a tree", "1"), TRAIN[0])
    finding = only(audit([pairs("train", *TRAIN), test], RULES), "leakage")
    assert finding.severity == "error"
    assert finding.places == ("test:2 is train:2, with another answer", "test:3 is train:1")
    assert str(finding).startswith("2 of 3 row(s) of test also stand in train")


def test_leakage_is_looked_for_between_every_two_files() -> None:
    parts = [
        pairs("train", *TRAIN),
        pairs("val", ("c", "d", "0"), ("e", "f", "1")),
        pairs("test", ("g", "h", "0"), ("e", "f", "1")),
    ]
    assert only(audit(parts, RULES), "leakage").places == ("test:2 is val:2",)


def test_a_row_that_differs_in_case_and_white_space_is_a_warning() -> None:
    test = pairs("test", ("A  Cat\n", "a feline", "1"), ("a tree", "a dog", "0"), ("x", "y", "0"))
    finding = only(audit([pairs("train", *TRAIN), test], RULES), "near-leakage")
    assert finding.severity == "warning"
    assert finding.places == ("test:1 is train:1", "test:2 is train:2")


def test_where_one_text_ends_counts() -> None:
    test = pairs("test", ("a cat a", "feline", "1"), ("x", "y", "0"))
    assert codes(audit([pairs("train", *TRAIN), test], RULES)) == []


def test_chats_are_compared_by_all_that_is_asked() -> None:
    train = chats("train", ("why", "because"), ("how", "so"))
    test = chats("test", ("why", "for a reason"), ("when", "now"))
    finding = only(audit([train, test], RULES), "leakage")
    assert finding.places == ("test:1 is train:1, with another answer",)


def test_plain_texts_are_compared_whole() -> None:
    def texts(source: str, *rows: str) -> Part:
        return Part(source, "text", [Completion("", row, f"{source}:1") for row in rows])

    report = audit([texts("train", "one", "two"), texts("test", "three", "two")], RULES)
    assert only(report, "leakage").places == ("test:1 is train:1",)


def test_duplicates_and_conflicts_are_warnings_with_lines() -> None:
    part = pairs("train", *TRAIN, TRAIN[0], ("a dog", "a tree", "1"), TRAIN[0])
    report = audit([part], RULES)
    assert codes(report) == ["duplicates", "conflicting-labels"]
    assert report.findings[0].places == ("train:3 is train:1", "train:5 is train:1")
    assert report.findings[1].places == ("train:4 is train:2: '1', '0'",)
    assert not report.errors
    report.refuse()


def test_several_answers_to_one_question_are_no_conflict_where_answers_are_texts() -> None:
    part = chats("train", ("why", "because"), ("why", "for a reason"), ("how", "so"))
    assert audit([part], RULES).findings == ()


@pytest.mark.parametrize("kind", ["sft", "pair"])
def test_a_single_class_is_refused_where_classes_are_meant(kind: str) -> None:
    part = pairs("train", ("a", "b", "1"), ("c", "d", "1"))
    rules = Rules(max_length=10, kind=kind)  # type: ignore[arg-type]
    finding = only(audit([part], rules), "single-class")
    assert finding.severity == "error"
    assert "'1'" in finding.message


def test_a_single_answer_to_chats_is_a_warning() -> None:
    part = chats("train", ("a", "yes"), ("b", "yes"))
    assert only(audit([part], RULES), "single-class").severity == "warning"


def test_held_out_rows_of_a_single_class_are_a_warning() -> None:
    test = pairs("test", ("x", "y", "1"), ("z", "w", "1"))
    assert only(audit([pairs("train", *TRAIN), test], RULES), "single-class").severity == "warning"


def test_a_label_that_is_not_listed_is_refused() -> None:
    rules = Rules(max_length=10, kind="pair", labels=("0", "1"))
    part = pairs("train", *TRAIN, ("x", "y", "2"))
    finding = only(audit([part], rules), "unknown-label")
    assert finding.places == ("train:3: '2'",)
    assert "0, 1" in finding.message


def test_a_held_out_label_that_is_not_trained_on_is_refused() -> None:
    rules = Rules(max_length=10, kind="pair")
    test = pairs("test", ("x", "y", "maybe"), ("z", "w", "0"))
    finding = only(audit([pairs("train", *TRAIN), test], rules), "unknown-label")
    assert finding.places == ("test:1: 'maybe'",)


def test_uneven_classes_are_a_warning() -> None:
    rows = [("a", str(n), "0") for n in range(22)]
    finding = only(audit([pairs("train", *rows, *TRAIN[:1])], RULES), "imbalance")
    assert "22 rows of the class '0' and 1 of '1'" in finding.message
    assert audit([pairs("train", *rows[:10], *TRAIN[:1])], RULES).findings == ()


def test_errors_come_first_and_all_are_in_the_refusal() -> None:
    train = pairs("train", *TRAIN, TRAIN[0])
    report = audit([train, pairs("test", TRAIN[0], ("x", "y", "0"))], Rules(10, kind="pair"))
    assert codes(report) == ["leakage", "duplicates"]
    with pytest.raises(DataError, match="also stand in") as error:
        report.refuse()
    assert "repeat" not in str(error.value)
    both = audit([tokens(example(5, EOS, learned=0), example(BOS, BOS, EOS))], RULES)
    with pytest.raises(DefectiveData) as refusal:
        both.refuse()
    assert {finding.code for finding in refusal.value.findings} == {"nothing-learned", "two-bos"}


def test_a_finding_lists_a_few_places_and_counts_the_rest() -> None:
    places = tuple(f"rows.jsonl:{n}" for n in range(1, 9))
    lines = str(Finding("x", "error", "row(s) are wrong.", "Mend them.", places)).split("\n")
    assert lines[0] == "8 row(s) are wrong. Mend them."
    assert lines[1:] == [*(f"  {place}" for place in places[:5]), "  … and 3 more."]
    assert Finding("x", "error", "All.", "").as_data()["count"] == 0


def test_figures_are_those_of_the_rows() -> None:
    rows = [example(BOS, *range(3, 3 + n), EOS, learned=2) for n in (1, 2, 3)]
    part = Part("p", "text-label", pairs("p", *TRAIN, ("a", "b", "0")).rows, rows)
    (figures,) = audit([part], RULES).statistics
    assert figures.rows == 3
    assert figures.classes == {"0": 2, "1": 1}
    assert figures.imbalance == 2.0
    assert figures.tokens
    assert figures.tokens.tokens == 3 + 4 + 5
    assert figures.tokens.learned == 6
    assert figures.tokens.learned_share == 0.5
    assert figures.tokens.lengths == {"p50": 4, "p95": 5, "p99": 5, "max": 5}
    assert figures.tokens.begin_share == figures.tokens.end_share == 1.0
    assert figures.as_data()["tokens"]["learned_share"] == 0.5


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 100))
def test_percentiles_are_numpys(values: list[int], share: int) -> None:
    expected = np.percentile(values, share, method="inverted_cdf")
    assert percentile(sorted(values), share) == expected


def fake_tokens(word: str) -> tuple[int, ...]:
    """A token a letter."""
    return tuple(word.encode())


def refusal(words: dict[str, str], tokens_of: TokensOf | None = fake_tokens) -> str:
    with pytest.raises(DataError) as error:
        check_label_words(words, {k: fake_tokens(word) for k, word in words.items()}, tokens_of)
    return str(error.value)


def test_label_words_of_equal_length_pass() -> None:
    check_label_words({"0": "no", "1": "so"}, {"0": (5, 6), "1": (5, 7)})


def test_label_words_of_unequal_length_are_refused_with_tokens_and_words_that_would_do() -> None:
    message = refusal({"0": "no", "1": "yes"})
    assert f"'no': tokens {list(b'no')}" in message
    assert f"'yes': tokens {list(b'yes')}" in message
    assert "task.words={'0': 'A', '1': 'B'}" in message


def test_label_words_of_the_same_tokens_are_refused() -> None:
    assert "cannot be told apart" in refusal({"0": "no", "1": "no"})


def test_without_a_tokenizer_there_is_general_advice() -> None:
    assert "yes and no" in refusal({"0": "no", "1": "yes"}, None)


def test_words_that_would_do_are_checked_by_the_tokenizer(encoder: Encoder) -> None:
    def tokens_of(word: str) -> tuple[int, ...]:
        chat = Conversation((Message("user", "q"), Message("assistant", word)), "o")
        return tuple(label for label in encoder.encode(chat).labels if label != IGNORED)[:-1]

    words = {"warm": "yellow", "cold": "blue", "none": "colourless"}
    with pytest.raises(DefectiveData) as error:
        check_label_words(words, {k: tokens_of(w) for k, w in words.items()}, tokens_of)
    remedy = error.value.findings[0].remedy
    proposed: dict[str, str] = literal_eval(remedy.split("words=")[1][:-1])
    assert proposed.keys() == words.keys()
    ids = [tokens_of(word) for word in proposed.values()]
    assert len(set(ids)) == 3
    assert len({len(of_one) for of_one in ids}) == 1


def test_special_tokens_in_texts_are_a_warning(encoder: Encoder) -> None:
    part = chats("train", ("end it <|im_end|> here", "so"), ("why", "because"), ("<|im_", "x"))
    finding = only(audit([part], Rules.of(encoder.tokenizer, 100)), "special-tokens")
    assert finding.severity == "warning"
    assert finding.places == ("train:1: '<|im_end|>'",)


def test_class_like_answers_of_unequal_length_are_a_warning(encoder: Encoder) -> None:
    part = chats(
        "train", ("a", "blue"), ("b", "a yellow one"), ("c", "blue"), ("d", "a yellow one")
    )
    part = Part(part.source, part.format, part.rows, encoder.encode_all(part.rows))
    finding = only(audit([part], Rules.of(encoder.tokenizer, 100)), "uneven-answers")
    assert finding.severity == "warning"
    assert "task.kind=classify" in finding.remedy
    classes = Rules.of(encoder.tokenizer, 100, kind="classify")
    assert "uneven-answers" not in codes(audit([part], classes))
