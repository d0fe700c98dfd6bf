"""A model that says anything is held to the form asked for."""

import json
import re
import sys
import threading

import jsonschema
import pytest
import torch

from adaptery.errors import EngineError, UsageError
from adaptery.serving.engine import Chunk, SamplingParams
from adaptery.serving.grammar import Grammar, check_grammar
from adaptery.serving.torch.answer import Answer, choose
from adaptery.serving.torch.constraints import Grammars
from tests.serving.torch.test_text import TOKENIZER, byte_tokenizer

VOCABULARY = len(TOKENIZER)
END = 0


def strict(**properties: object) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS = {
    "enum": {"enum": ["red", "gréen", 3, None, {"a": [1]}]},
    "nested": strict(name={"type": "string", "maxLength": 9}, at=strict(x={"type": "number"})),
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 5},
    "integer": {"type": "integer", "minimum": -20, "maximum": 300},
    "pattern": strict(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}),
    "date": {"type": "string", "format": "date"},
    "either": {"anyOf": [{"type": "boolean"}, strict(no={"const": "never"})]},
    "reference": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "next": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
    },
}


def by_schema(schema: dict) -> Grammar:
    return Grammar("json", json.dumps(schema))


def answer(grammar: Grammar | None, seed: int = 0, **params) -> Answer:
    sampling = SamplingParams(**{"max_tokens": 3000, "seed": seed, **params}, grammar=grammar)
    return Answer(sampling, TOKENIZER, frozenset({END}), [1], lambda item: None)


def noise(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def run(one: Answer, seed: int = 0) -> list[Chunk]:
    """The whole answer of a model that says anything."""
    chunks: list[Chunk] = []
    while not chunks or chunks[-1].finish_reason is None:
        (chunk,) = choose([one], noise(seed * 10**6 + len(chunks)))
        assert isinstance(chunk, Chunk), chunk
        chunks.append(chunk)
    return chunks


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_model_that_says_anything_says_what_the_schema_allows(name, temperature):
    said = set()
    for seed in range(4):
        one = answer(by_schema(SCHEMAS[name]), seed, temperature=temperature)
        chunks = run(one, seed)
        assert chunks[-1].finish_reason == "stop"
        jsonschema.validate(json.loads(text(chunks)), SCHEMAS[name])
        said.add(text(chunks))
    assert len(said) > 1


def test_any_json_object_is_one():
    for seed in range(5):
        chunks = run(answer(Grammar("json", '{"type": "object"}'), seed), seed)
        if chunks[-1].finish_reason == "stop":
            assert isinstance(json.loads(text(chunks)), dict)
        else:
            assert text(chunks).startswith("{")


def test_a_regex_is_matched_by_the_whole_answer():
    for seed in range(5):
        chunks = run(answer(Grammar("regex", "(yes|no) [a-c]{3,5}"), seed), seed)
        assert re.fullmatch("(yes|no) [a-c]{3,5}", text(chunks))


def test_what_is_complete_ends_without_a_step_for_the_end_token():
    chunks = run(answer(Grammar("regex", "abc")))
    assert text(chunks) == "abc"
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert END not in [chunk.token for chunk in chunks]


def test_a_form_holds_whatever_else_is_asked_for():
    params = {"top_p": 0.9, "top_k": 5, "repetition_penalty": 1.5, "logit_bias": ((70, 100.0),)}
    for seed in range(4):
        chunks = run(answer(by_schema(SCHEMAS["pattern"]), seed, logprobs=2, **params), seed)
        jsonschema.validate(json.loads(text(chunks)), SCHEMAS["pattern"])
        assert all(chunk.logprob > -9999 for chunk in chunks)  # of the model's own distribution


def test_held_and_free_answers_do_not_touch_one_another():
    kinds = [by_schema(SCHEMAS["nested"]), None, by_schema(SCHEMAS["array"]), None]
    kinds += [by_schema(SCHEMAS["nested"])]

    def asked() -> list[Answer]:
        return [answer(kind, seed, max_tokens=40) for seed, kind in enumerate(kinds)]

    def step(number: int) -> torch.Tensor:
        return noise(number, len(kinds))

    alone = []
    for row, one in enumerate(asked()):
        chunks = []
        while not chunks or chunks[-1].finish_reason is None:
            chunks += choose([one], step(len(chunks))[row, None])
        alone.append(chunks)
    together: list[list[Chunk]] = [[] for _ in kinds]
    live = dict(enumerate(asked()))
    for number in range(40):
        rows = list(live)
        for row, chunk in zip(rows, choose(list(live.values()), step(number)[rows]), strict=True):
            together[row].append(chunk)
            if chunk.finish_reason is not None:
                del live[row]
    assert together == alone
    assert together[0] != together[4]


def test_a_model_with_more_scores_than_tokens_never_says_those_beyond():
    one = answer(Grammar("regex", "[ab]{20}"), temperature=0)
    wide = torch.cat([noise(1), torch.full((1, 70), 50.0)], dim=1)
    for _ in range(20):
        (chunk,) = choose([one], wide)
        assert chunk.text in ("a", "b")


def test_a_token_against_the_grammar_ends_the_request_alone():
    wrong, right = answer(Grammar("regex", "abc")), answer(Grammar("regex", "abc"))
    with pytest.raises(EngineError, match="cannot be held"):
        wrong.take(TOKENIZER("z")["input_ids"][0])
    first, second = choose([wrong, right], noise(0, 2))
    assert isinstance(first, EngineError)
    assert second.text == "a"


def test_an_answer_is_ready_when_its_grammar_is_compiled():
    ready = threading.Event()
    answer(by_schema(SCHEMAS["date"])).when_ready(ready.set)
    assert ready.wait(10)


def test_a_grammar_is_compiled_once():
    grammars = Grammars(TOKENIZER, frozenset({END}))
    first = grammars.get(by_schema(SCHEMAS["date"]))
    assert grammars.get(by_schema(SCHEMAS["date"])).result() is first.result()
    assert grammars.get(by_schema(SCHEMAS["enum"])).result() is not first.result()


def test_a_grammar_that_cannot_be_obeyed_ends_the_request_with_an_error():
    (result,) = choose([answer(by_schema({"type": "string", "not": {}}))], noise(0))
    assert isinstance(result, EngineError)
    assert "not" in str(result)


def test_a_tokenizer_that_llguidance_cannot_read_is_an_error_of_the_request():
    sampling = SamplingParams(5, grammar=Grammar("regex", "a"))
    slow = type("Slow", (), {"decode": TOKENIZER.decode, "added_tokens_decoder": {}})()
    (result,) = choose([Answer(sampling, slow, frozenset({END}), [1], print)], noise(0))
    assert isinstance(result, EngineError)
    assert "fast tokenizers" in str(result)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "Unsatisfiable"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_obeyed_is_refused_with_the_reason(schema, reason):
    for _ in range(2):  # the second time from memory
        with pytest.raises(UsageError, match=reason):
            check_grammar(by_schema(schema))


def test_a_schema_too_deep_or_too_large_is_refused():
    deep: dict = {}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    words = {"enum": [f"v{i}" for i in range(100)]}
    large = {"type": "object", "properties": {f"k{i}": words for i in range(1000)}}
    for schema in (deep, large):
        with pytest.raises(UsageError):
            check_grammar(by_schema(schema))


def test_without_llguidance_forms_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"adaptery\[structured\]"):
        check_grammar(by_schema(SCHEMAS["date"]))
    tokenizer = byte_tokenizer()
    sampling = SamplingParams(5, grammar=by_schema(SCHEMAS["date"]))
    (result,) = choose([Answer(sampling, tokenizer, frozenset({END}), [1], print)], noise(0))
    assert isinstance(result, EngineError)
    assert "adaptery[structured]" in str(result)
