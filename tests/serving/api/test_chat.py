"""Chat completions through the official client."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jsonschema
import openai
import pytest

from adaptery.serving.torch.engine import TorchEngine
from tests.serving import models
from tests.serving.running import client, running_server

HELLO = [{"role": "user", "content": "hello"}]
GREEDY = {"messages": HELLO, "temperature": 0, "max_tokens": 12}


def text(answer) -> str:
    return answer.choices[0].message.content


def test_each_model_answers_with_its_own_weights(ask, base_directory, adapters):
    """Base and three versions, interleaved, against transformers and PEFT one by one."""
    weights = {
        "tiny": None,
        "support": adapters["wide"],
        "support@2": adapters["stable"],
        "news@live": adapters["narrow"],
    }
    asked = [(model, f"question {i}") for i in range(4) for model in weights]

    def one(pair: tuple[str, str]) -> str:
        model, content = pair
        messages = [{"role": "user", "content": content}]
        return text(ask.chat.completions.create(model=model, **GREEDY | {"messages": messages}))

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(one, asked))
    expected = {
        (model, content): models.chat_truth(base_directory, weights[model], content, 12)
        for model, content in asked
    }
    assert dict(zip(asked, answers, strict=True)) == expected
    assert len(set(expected.values())) > len(weights)


def test_headers_and_model_name_the_version_that_answers(ask, registry):
    second = registry.published["support"][1]
    with ask.chat.completions.with_streaming_response.create(
        model="support@2", stream=True, **GREEDY
    ) as streamed:
        begun = streamed.headers
    whole = ask.chat.completions.with_raw_response.create(model="support@2", **GREEDY)
    for headers in (begun, whole.headers):
        assert headers["x-adapter"] == "support"
        assert headers["x-adapter-version"] == "2"
        assert headers["x-adapter-digest"] == second.digest
    assert whole.parse().model == "support@2"
    base = ask.chat.completions.with_raw_response.create(model="tiny", **GREEDY)
    assert "x-adapter" not in base.headers
    assert base.parse().model == "tiny"


@pytest.mark.parametrize("model", ["support", "tiny"])
def test_a_stream_says_what_the_whole_answer_says(ask, model):
    whole = ask.chat.completions.create(model=model, **GREEDY)
    chunks = list(ask.chat.completions.create(model=model, stream=True, **GREEDY))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text(whole)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_counts_tokens_and_comes_last_in_a_stream(ask, base):
    prompt = base.tokenizer.apply_chat_template(
        HELLO, add_generation_prompt=True, return_dict=False
    )
    whole = ask.chat.completions.create(model="support", **GREEDY, n=2)
    assert whole.usage.prompt_tokens == len(prompt)
    assert whole.usage.completion_tokens == 24
    assert whole.usage.total_tokens == len(prompt) + 24
    stream = ask.chat.completions.create(
        model="support", stream=True, stream_options={"include_usage": True}, **GREEDY, n=2
    )
    *chunks, last = stream
    assert last.usage == whole.usage
    assert last.choices == []
    assert all(chunk.usage is None for chunk in chunks)


def test_n_choices_differ_and_a_seed_repeats_them(ask):
    def choices(**more) -> list[str]:
        answer = ask.chat.completions.create(
            model="support", messages=HELLO, max_tokens=12, n=3, **more
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    seeded = choices(seed=5)
    assert len(set(seeded)) == 3
    assert choices(seed=5) == seeded
    assert choices(seed=6) != seeded


def test_logprobs_belong_to_the_tokens_of_the_answer(ask):
    answer = ask.chat.completions.create(
        model="support", logprobs=True, top_logprobs=3, **GREEDY
    ).choices[0]
    content = answer.logprobs.content
    assert "".join(token.token for token in content) == answer.message.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == answer.message.content
    for token in content:
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert len(token.top_logprobs) == 3
    stream = ask.chat.completions.create(
        model="support", logprobs=True, top_logprobs=3, stream=True, **GREEDY
    )
    parts = [c.choices[0].logprobs.content for c in stream if c.choices[0].logprobs]
    assert [token for part in parts for token in part] == content
    assert ask.chat.completions.create(model="support", **GREEDY).choices[0].logprobs is None


def test_stop_strings_end_the_answer(ask):
    whole = text(ask.chat.completions.create(model="support", **GREEDY))
    stop = whole[4:6]
    expected = whole[: whole.index(stop)]
    for given in (stop, ["never", stop]):
        answer = ask.chat.completions.create(model="support", stop=given, **GREEDY)
        assert text(answer) == expected
        assert answer.choices[0].finish_reason == "stop"
    stream = ask.chat.completions.create(model="support", stop=stop, stream=True, **GREEDY)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == expected


def test_without_max_tokens_the_answer_may_fill_the_context(ask, config):
    answer = ask.chat.completions.create(model="tiny", messages=HELLO, temperature=0)
    assert answer.usage.total_tokens == config.max_context
    assert answer.choices[0].finish_reason == "length"


def test_a_version_is_asked_in_the_form_in_which_it_was_trained(ask, registry, adapters):
    upper = "{% for m in messages %}[{{ m.content | upper }}]{% endfor %}"
    registry.publish("templated", adapters["wide"], template=upper)
    answer = ask.chat.completions.create(model="templated", **GREEDY)
    plain = ask.completions.create(
        model="templated", prompt="[HELLO]", temperature=0, max_tokens=12
    )
    assert answer.usage.prompt_tokens == plain.usage.prompt_tokens == len("[HELLO]")
    assert text(answer) == plain.choices[0].text


def test_content_may_come_in_parts(ask):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    answer = ask.chat.completions.create(
        model="support", **GREEDY | {"messages": [{"role": "user", "content": parts}]}
    )
    assert text(answer) == text(ask.chat.completions.create(model="support", **GREEDY))


def test_a_promotion_counts_from_the_next_request_on(ask, registry, base_directory, adapters):
    registry.publish("moving", adapters["wide"])
    registry.publish("moving", adapters["mixed"])
    expected = {
        number: models.chat_truth(base_directory, adapters[name], "hello", 12)
        for number, name in ((1, "wide"), (2, "mixed"))
    }
    for number in (1, 2, 1):
        registry.promote("moving", number)
        raw = ask.chat.completions.with_raw_response.create(model="moving", **GREEDY)
        assert raw.headers["x-adapter-version"] == str(number)
        assert text(raw.parse()) == expected[number]


def test_a_request_in_flight_keeps_its_version(ask, registry, base_directory, adapters):
    registry.publish("held", adapters["wide"])
    registry.publish("held", adapters["mixed"])
    asked = GREEDY | {"max_tokens": 100}
    stream = ask.chat.completions.create(model="held", stream=True, **asked)
    begin = next(stream).choices[0].delta.content or ""
    registry.promote("held", 2)
    assert ask.chat.completions.create(model="held", **GREEDY).model == "held@2"
    rest = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert begin + rest == models.chat_truth(base_directory, adapters["wide"], "hello", 100)


def test_a_rollback_under_load_fails_no_request(ask, registry, adapters):
    registry.publish("busy", adapters["wide"])
    registry.publish("busy", adapters["mixed"])
    registry.promote("busy", 2)
    versions, errors, over = [], [], threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            try:
                versions.append(ask.chat.completions.create(model="busy", **GREEDY).model)
            except openai.OpenAIError as error:
                errors.append(error)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(keep_asking)
        while len(versions) < 8:
            time.sleep(0.01)
        registry.promote("busy", 1)
        after = ask.chat.completions.create(model="busy", **GREEDY).model
        over.set()
    assert errors == []
    assert versions[0] == "busy@2"
    assert after == "busy@1"


def test_a_client_that_goes_away_frees_its_slot(base, config, registry):
    config = config.model_copy(update={"max_sequences": 1, "max_context": 512})
    asked = {"model": "tiny", "messages": HELLO, "temperature": 0}
    with running_server(TorchEngine(base, config, "thread"), registry, config) as address:
        with client(address) as ask, ask.chat.completions.create(stream=True, **asked) as stream:
            next(stream)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=0.05)
        with client(address) as ask:
            ask.chat.completions.create(**asked | {"max_tokens": 1})
        metrics = httpx.get(f"{address}/metrics").text
    assert 'adaptery_requests_total{model="tiny",outcome="cancelled"} 2.0' in metrics


def test_a_router_may_choose_the_model(base, config, registry):
    class ByTenant:
        def route(self, model, body, headers):
            assert body["messages"] == HELLO
            return f"{model}@{headers['x-tenant']}"

    engine = TorchEngine(base, config, "thread")
    with running_server(engine, registry, config, ByTenant()) as address, client(address) as ask:
        answer = ask.chat.completions.create(
            model="support", extra_headers={"x-tenant": "2"}, **GREEDY
        )
    assert answer.model == "support@2"


def held(schema: dict) -> dict:
    """Parameters that ask for an answer of this schema."""
    asked = {"name": "form", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": asked}}


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,12}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def test_an_answer_held_to_a_schema_is_json_of_it_whole_and_streamed(ask):
    asked = {"model": "support", "messages": HELLO, "max_tokens": 200, "seed": 4} | held(PERSON)
    whole = ask.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text(whole)), PERSON)
    chunks = list(ask.chat.completions.create(**asked, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text(whole)
    assert sum(bool(c.choices[0].delta.content) for c in chunks) > 10
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_held_and_free_requests_to_several_versions_share_steps(ask):
    """Every answer is the one that its request gets when it is alone."""
    models_asked = ["tiny", "support", "support@2", "news"] * 2
    kinds = [held(PERSON)] * 4 + [{}] * 4

    def one(number: int) -> str:
        asked = {"messages": HELLO, "max_tokens": 160, "seed": number} | kinds[number]
        return text(ask.chat.completions.create(model=models_asked[number], **asked))

    numbers = range(len(kinds))
    alone = [one(number) for number in numbers]
    with ThreadPoolExecutor(len(kinds)) as pool:
        assert list(pool.map(one, numbers)) == alone
    for answer in alone[:4]:
        jsonschema.validate(json.loads(answer), PERSON)


def test_a_json_object_a_regex_and_a_choice_can_be_asked_for(ask):
    for seed in range(3):
        asked = {"model": "support", "messages": HELLO, "max_tokens": 60, "seed": seed}
        answer = ask.chat.completions.create(**asked, response_format={"type": "json_object"})
        assert text(answer).startswith("{")
        for form, allowed in (
            ({"regex": "(ab|ba){2,3}"}, "(ab|ba){2,3}"),
            ({"choice": ["a.b", "(no)"]}, r"a\.b|\(no\)"),
            ({"json": {"const": 7}}, "7"),
        ):
            answer = ask.chat.completions.create(**asked, extra_body={"structured_outputs": form})
            assert re.fullmatch(allowed, text(answer))


def test_every_parameter_of_sampling_changes_the_answer(ask, base):
    greedy = {"model": "support", "messages": HELLO, "temperature": 0, "max_tokens": 24}
    drawn = greedy | {"temperature": 1.5, "seed": 3}

    def said(**asked) -> str:
        return text(ask.chat.completions.create(**asked))

    best, free = said(**greedy), said(**drawn)
    first, other = (base.tokenizer(letters)["input_ids"][0] for letters in (best[:2], "z"))
    bias = {str(first): -100, str(other): 2}
    for wanted in ({"presence_penalty": 2}, {"frequency_penalty": 1}, {"logit_bias": bias}):
        assert said(**greedy, **wanted) not in ("", best)
    assert said(**greedy, extra_body={"repetition_penalty": 1.5}) != best
    for wanted in ({"top_k": 3}, {"min_p": 0.5}):
        assert said(**drawn, extra_body=wanted) != free
    for wanted in ({"top_k": 1}, {"min_p": 1}):
        assert said(**drawn, extra_body=wanted) == best
    for wanted in ({"top_k": 0}, {"top_k": -1}, {"min_p": 0}, {"repetition_penalty": 1}):
        assert said(**drawn, extra_body=wanted) == free


def test_stop_tokens_and_min_tokens_set_the_end(ask, base):
    whole = text(ask.chat.completions.create(model="support", **GREEDY))
    ids = base.tokenizer(whole)["input_ids"]
    stop = {"stop_token_ids": [ids[4]]}
    early = ask.chat.completions.create(model="support", extra_body=stop, **GREEDY)
    assert early.choices[0].finish_reason == "stop"
    assert early.usage.completion_tokens == ids.index(ids[4]) + 1
    assert text(early) == base.tokenizer.decode(ids[: ids.index(ids[4])])
    late = ask.chat.completions.create(
        model="support", extra_body=stop | {"min_tokens": 9}, **GREEDY
    )
    assert late.usage.completion_tokens > 9
    # Special tokens score 0 here, so they come when they are pushed.
    end = GREEDY | {"logit_bias": {str(base.tokenizer.eos_token_id): 100}}
    assert ask.chat.completions.create(model="support", **end).usage.completion_tokens == 1
    for ends in ({"ignore_eos": True}, {"min_tokens": 12}):
        answer = ask.chat.completions.create(model="support", extra_body=ends, **end)
        assert answer.usage.completion_tokens == 12
        assert answer.choices[0].finish_reason == "length"
