"""Which classes there are, how they are asked for, and what they weigh."""

import pytest

from adaptery.classification import Classification
from adaptery.errors import ConfigError, DataError
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Completion, Conversation, Message
from adaptery.trainers.tasks.classes import class_numbers, class_weights, find_classes, in_order
from tests.trainers.tasks.conftest import chats, pairs, texts


def test_whole_numbers_are_in_order_of_size_and_words_of_the_alphabet() -> None:
    assert in_order({"10", "9", "-1"}) == ("-1", "9", "10")
    assert in_order({"b", "a", "10"}) == ("10", "a", "b")


@pytest.mark.parametrize("labels", [{"nan", "1", "0"}, {"inf", "1"}, {"1", "01", "+1"}])
def test_the_order_is_the_same_whatever_order_a_set_has(labels: set[str]) -> None:
    found = {in_order(set(some)) for some in (sorted(labels), sorted(labels, reverse=True))}
    assert found == {in_order(labels)}
    assert set(in_order(labels)) == labels


def test_labels_and_their_words_are_found_in_the_rows() -> None:
    found = find_classes(TaskConfig(kind="pair"), pairs(["1", "0", "1"]))
    assert found.labels == ("0", "1")
    assert found.words == {"0": "no", "1": "yes"}
    assert found.instruction == (
        "Do these two texts belong together? Answer with one word: no, yes."
    )
    found = find_classes(TaskConfig(kind="classify"), texts(["red", "blue"]))
    assert found.words == {"blue": "blue", "red": "red"}


def test_a_head_is_asked_in_no_words() -> None:
    found = find_classes(TaskConfig(kind="pair", way="head"), pairs(["1", "0"]))
    assert (found.words, found.instruction) == ({}, None)


@pytest.mark.parametrize(
    ("system", "instruction"), [("Which colour?", "Which colour?"), (None, "")]
)
def test_chats_that_all_ask_alike_can_be_asked_again_with_a_text(
    system: str | None, instruction: str
) -> None:
    rows = chats(["red", "blue"], system)
    found = find_classes(TaskConfig(kind="classify"), rows)
    assert found.instruction == instruction
    for row, text in zip(rows, texts(["red", "blue"]), strict=True):
        assert found.messages(text.texts) == row.as_dicts()[:-1]


@pytest.mark.parametrize(
    "rows",
    [
        [*chats(["red"], "What is it?"), *chats(["blue"], "Which colour?")],
        [
            Conversation(
                (
                    *(Message(role, "x") for role in ("user", "assistant", "user")),
                    Message("assistant", label),
                ),
                "c:1",
            )
            for label in ("red", "blue")
        ],
    ],
    ids=["two instructions", "several turns"],
)
def test_chats_that_ask_in_several_ways_cannot_be_asked_with_a_text(rows) -> None:
    found = find_classes(TaskConfig(kind="classify"), rows)
    with pytest.raises(ValueError, match="each asked in their own way"):
        found.messages(("text",))


def test_an_instruction_for_chats_is_refused_unless_it_is_their_own() -> None:
    rows = chats(["red", "blue"])
    with pytest.raises(ConfigError, match="Take it out"):
        find_classes(TaskConfig(kind="classify", instruction="Say it."), rows)
    again = TaskConfig(kind="classify", instruction="Which colour?")
    assert find_classes(again, rows).instruction == "Which colour?"


def test_rows_of_another_task_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"has 2 text.s., .*Set task.kind to 'pair'"):
        find_classes(TaskConfig(kind="classify"), pairs(["0", "1"]))
    with pytest.raises(DataError, match=r"f:1: the row has no class.*'sft'"):
        find_classes(TaskConfig(kind="classify"), [Completion("a", "b", "f:1")])


def test_data_of_a_single_class_teach_nothing() -> None:
    with pytest.raises(DataError, match="All 3 rows are of the class 'red'"):
        find_classes(TaskConfig(kind="classify"), texts(["red"] * 3))


def test_a_label_that_is_not_listed_is_refused_with_its_row() -> None:
    settings = TaskConfig(kind="classify", labels=("red", "blue"))
    with pytest.raises(DataError, match=r"1 row.s. have a label.*\n.*texts.jsonl:2: 'green'"):
        find_classes(settings, texts(["red", "green", "blue"]))


def test_words_for_no_label_are_refused() -> None:
    with pytest.raises(ConfigError, match="names 'green'"):
        find_classes(TaskConfig(kind="classify", words={"green": "g"}), texts(["red", "blue"]))


def test_a_held_out_class_that_was_never_learned_is_refused() -> None:
    classes = find_classes(TaskConfig(kind="classify"), texts(["red", "blue"]))
    assert class_numbers(classes, texts(["red", "blue", "red"])) == [1, 0, 1]
    with pytest.raises(
        DataError, match=r"not among those learned \(blue, red\)[^\n]*\n.*:3: 'green'"
    ):
        class_numbers(classes, texts(["red", "blue", "green"]))


def weights(settings: TaskConfig, labels: list[str]) -> list[float]:
    rows = texts(labels)
    return class_weights(settings, find_classes(settings, rows), rows)


def test_automatic_weights_are_rows_over_classes_times_rows_of_the_class() -> None:
    settings = TaskConfig(kind="classify", weights="auto")
    assert weights(settings, ["a"] * 6 + ["b"] * 3 + ["c"]) == pytest.approx(
        [10 / 18, 10 / 9, 10 / 3]
    )


@pytest.mark.parametrize("given", ["auto", {"a": 1.0, "b": 3.0}, {"a": 5, "b": 5}])
def test_weights_are_one_on_average_over_the_rows(given) -> None:
    labels = ["a"] * 7 + ["b"] * 3
    a, b = weights(TaskConfig(kind="classify", weights=given), labels)
    assert (7 * a + 3 * b) / 10 == pytest.approx(1)
    if isinstance(given, dict):
        assert a / b == pytest.approx(given["a"] / given["b"])


def test_automatic_weights_never_favour_the_majority() -> None:
    a, b = weights(TaskConfig(kind="classify", weights="auto"), ["a"] * 9 + ["b"])
    assert a < 1 < b
    assert 9 * a == pytest.approx(b)


def test_a_listed_class_without_rows_takes_nothing_from_the_others() -> None:
    settings = TaskConfig(kind="classify", labels=("a", "b", "c"), weights="auto")
    assert weights(settings, ["a", "a", "a", "b"]) == pytest.approx([4 / 6, 4 / 2, 0])


@pytest.mark.parametrize(
    "given", [{"a": 1.0}, {"a": 1, "b": 1, "c": 1}, {"a": 0, "b": 1}, {"a": -1, "b": 1}]
)
def test_weights_that_miss_a_class_or_are_not_positive_are_refused(given) -> None:
    with pytest.raises(ConfigError, match="positive number to each of a, b"):
        weights(TaskConfig(kind="classify", weights=given), ["a", "b"])


def test_what_is_recorded_is_a_configuration_and_means_the_same_again() -> None:
    rows = texts(["red", "blue"])
    classes = find_classes(TaskConfig(kind="classify"), rows)
    again = TaskConfig.model_validate(classes.model_dump(mode="json"))
    assert find_classes(again, rows) == classes
    assert isinstance(classes, Classification)
