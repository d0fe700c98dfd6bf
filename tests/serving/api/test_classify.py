"""Classes over HTTP: the same as in evaluation, by the thresholds of the moment."""

import json
import math

import httpx
import openai
import pytest

from adaptery.base_model import LocalBase
from adaptery.classification import CALIBRATION
from adaptery.trainers.config import EvaluationConfig
from adaptery.trainers.data.rows import Labelled
from adaptery.trainers.evaluation.candidates import Candidate, measure_all
from adaptery.trainers.watching import Silent
from adaptery.types import Version
from tests.serving import models
from tests.serving.dict_registry import DictRegistry

TEXTS = ["hello", "is it red or blue", "x", "what a long text this is, with a comma"]
PAIRS = [["one", "another"], ["the sun", "the moon and the stars"], ["a", "b"]]
COLOUR = {
    "kind": "classify",
    "way": "words",
    "labels": ["red", "blue", "dull"],
    "words": {"red": "R", "blue": "B", "dull": "D"},
    "instruction": "Which colour?",
}
# Two tokens each in this tokenizer; `XY` and `XZ` part at the second.
LONG = COLOUR | {"words": {"red": "XY", "blue": "XZ", "dull": "QQ"}, "instruction": ""}
PAIR = {
    "kind": "pair",
    "way": "words",
    "labels": ["0", "1"],
    "words": {"0": "N", "1": "Y"},
    "instruction": "Do they belong together?",
}
OWN_TEMPLATE = models.CHAT_TEMPLATE.replace("<|turn|>", "<|turn|>Says the ")


@pytest.fixture(scope="module")
def registry(registry: DictRegistry, adapters) -> DictRegistry:
    for name, task, template in (
        ("colour", COLOUR, None),
        ("long", LONG, None),
        ("pair", PAIR, None),
        ("own", COLOUR, OWN_TEMPLATE),
        ("head", PAIR | {"way": "head", "words": {}, "instruction": None}, None),
        ("chats", COLOUR | {"instruction": None}, None),
    ):
        registry.publish(name, adapters["wide"], task=task, template=template)
    return registry


def post(server: str, model: str, texts, **more) -> httpx.Response:
    return httpx.post(f"{server}/v1/classify", json={"model": model, "input": texts, **more})


def classified(server: str, model: str, texts) -> dict:
    response = post(server, model, texts)
    assert response.status_code == 200, response.text
    return response.json()


def evaluated(registry: DictRegistry, base: LocalBase, version: Version, inputs) -> list[dict]:
    """What `adapters eval` says: labels and probabilities."""
    tags = registry.tags.get(str(version), {})
    directory = registry.materialize(version)
    candidate = Candidate.of(str(version), version.manifest, directory, base, tags)
    label = candidate.task.labels[0]
    rows = [
        Labelled((one,) if isinstance(one, str) else tuple(one), label, "row:1") for one in inputs
    ]
    settings = EvaluationConfig(metrics=("loss",))
    found = measure_all([candidate], rows, {}, settings, "fp32", Silent())[candidate.name]
    return [
        {
            "label": answer.text,
            "scores": dict(zip(candidate.task.labels, answer.scores, strict=True)),
        }
        for answer in found.answers
    ]


@pytest.mark.parametrize(
    ("model", "inputs"),
    [("colour", TEXTS), ("long", TEXTS), ("own", TEXTS), ("pair", PAIRS)],
    ids=["one token", "two tokens", "own template", "pairs"],
)
def test_served_classes_are_those_of_evaluation(
    server: str, registry: DictRegistry, base: LocalBase, model: str, inputs: list
) -> None:
    reply = classified(server, model, inputs)
    expected = evaluated(registry, base, registry.published[model][0], inputs)
    assert [row["index"] for row in reply["data"]] == list(range(len(inputs)))
    for row, truth in zip(reply["data"], expected, strict=True):
        assert row["label"] == truth["label"]
        assert row["probabilities"] == pytest.approx(
            {label: math.exp(score) for label, score in truth["scores"].items()}, abs=1e-4
        )
        assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert len({json.dumps(row["probabilities"]) for row in reply["data"]}) == len(inputs)


def test_a_template_of_its_own_makes_other_probabilities(server: str) -> None:
    one, other = (classified(server, model, TEXTS)["data"] for model in ("colour", "own"))
    assert one[0]["probabilities"] != pytest.approx(other[0]["probabilities"], abs=1e-3)


def test_the_reply_says_who_answered(server: str, registry: DictRegistry) -> None:
    response = post(server, "colour", "hello")
    version = registry.published["colour"][0]
    assert response.headers["x-adapter"] == "colour"
    assert response.headers["x-adapter-version"] == "1"
    assert response.headers["x-adapter-digest"] == version.digest
    reply = response.json()
    assert (reply["model"], reply["object"], reply["offsets"]) == ("colour@1", "list", None)
    assert reply["usage"]["prompt_tokens"] > 0
    assert len(reply["data"]) == 1


def test_two_texts_are_one_pair_and_a_list_of_pairs_are_several(server: str) -> None:
    (one,) = classified(server, "pair", PAIRS[0])["data"]
    first = classified(server, "pair", PAIRS)["data"][0]
    assert first["label"] == one["label"]
    assert first["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)
    assert len(classified(server, "colour", ["one", "another"])["data"]) == 2


def test_a_new_calibration_counts_from_the_next_request_on(
    server: str, registry: DictRegistry, base: LocalBase
) -> None:
    before = classified(server, "colour", TEXTS)
    try:
        registry.tags["colour@1"] = {CALIBRATION: "[0.0, 0.0, 100.0]"}
        after = classified(server, "colour", TEXTS)
        version = registry.published["colour"][0]
        expected = evaluated(registry, base, version, TEXTS)
    finally:
        registry.tags.clear()
    assert {row["label"] for row in after["data"]} == {"dull"} == {row["label"] for row in expected}
    assert {row["label"] for row in before["data"]} != {"dull"}
    assert after["offsets"] == {"red": 0.0, "blue": 0.0, "dull": 100.0}
    for one, other in zip(before["data"], after["data"], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert classified(server, "colour", TEXTS)["offsets"] is None


@pytest.mark.parametrize("tag", ["[1]", "[0, 0, NaN]", "nonsense", '{"a": 1}', "3"])
def test_a_calibration_that_cannot_be_read_is_not_passed_over(
    server: str, registry: DictRegistry, tag: str
) -> None:
    try:
        registry.tags["colour@1"] = {CALIBRATION: tag}
        response = post(server, "colour", "hello")
    finally:
        registry.tags.clear()
    assert response.status_code == 500
    assert "is no list of 3 numbers" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("model", "texts", "message"),
    [
        ("tiny", "hello", "the base alone"),
        ("support", "hello", "not trained to tell classes"),
        ("head", PAIRS[0], "by a classification head"),
        ("chats", "hello", "each asked in their own way"),
        ("pair", "hello", r"input 0 has 1 text"),
        ("pair", ["a", "b", "c"], r"input 0 has 1 text"),
        ("pair", [["a", "b"], ["a", "b", "c"]], r"input 1 has 3 text"),
        ("colour", [["a", "b"]], r"input 0 has 2 text"),
        ("colour", [], "input is empty"),
        ("colour", "", "input is empty"),
        ("colour", ["a", ""], "a text in it is"),
        ("pair", [[]], "input is empty"),
        ("colour", ["a"] * 1025, "at most 1,024"),
        ("colour", 3, "valid string"),
        ("colour", "long " * 300, "context holds"),
    ],
)
def test_what_cannot_be_classified_is_refused_in_words(
    server: str, model: str, texts, message: str
) -> None:
    response = post(server, model, texts)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_obeyed_is_refused(server: str) -> None:
    response = post(server, "colour", "hello", temperature=0.5)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "temperature")


def test_an_unknown_model_is_never_the_base(server: str) -> None:
    assert post(server, "nobody", "hello").status_code == 404


def test_the_list_of_models_tells_the_labels(ask: openai.OpenAI) -> None:
    labels = {card.id: getattr(card, "labels", None) for card in ask.models.list()}
    assert labels["colour"] == ["red", "blue", "dull"]
    assert labels["support"] is None


def test_a_chat_with_such_a_version_goes_on_as_ever(ask: openai.OpenAI) -> None:
    answer = ask.chat.completions.create(
        model="colour", messages=[{"role": "user", "content": "hello"}], max_tokens=3
    )
    assert answer.model == "colour@1"
    assert answer.choices[0].message.content
