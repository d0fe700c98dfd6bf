"""Whatever goes wrong comes back as an OpenAI error object with the right status."""

import sys

import httpx
import openai
import pytest
from pydantic import SecretStr

from adaptery.errors import EngineError, RegistryError
from adaptery.serving.api import create_app
from adaptery.serving.torch.engine import TorchEngine
from adaptery.types import BaseIdentity
from tests.serving import models
from tests.serving.running import client, running_server

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def complaint(error: openai.APIStatusError) -> str:
    body = error.response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["message"]


@pytest.mark.parametrize("model", ["suport", "support@9", "support@canary", "GPT-4", "../etc", ""])
@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_404_and_names_those_there_are(ask, model, stream):
    with pytest.raises(openai.NotFoundError) as caught:
        ask.chat.completions.create(model=model, stream=stream, **HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "support" in complaint(caught.value)
    assert "tiny" in complaint(caught.value)


def test_an_adapter_of_another_base_is_refused(ask, registry, adapters):
    registry.publish(
        "foreign", adapters["wide"], base=BaseIdentity(id="other/base", digest="c" * 64)
    )
    with pytest.raises(openai.BadRequestError, match="other/base"):
        ask.chat.completions.create(model="foreign", **HELLO)


@pytest.mark.parametrize("stream", [False, True])
def test_a_version_that_cannot_be_applied_is_refused_and_the_others_answer(
    ask, registry, base_directory, tmp_path_factory, stream
):
    name = f"broken-{stream}".lower()
    broken = tmp_path_factory.mktemp("broken")
    models.write_adapter(broken, base_directory, 0, r=2, target_modules=["q_proj"])
    models.edit_config(broken, r=3)
    registry.publish(name, broken)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="declared rank") as caught:
            ask.chat.completions.create(model=name, stream=stream, **HELLO)
        assert caught.value.code == "adapter_refused"
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert ask.chat.completions.create(model="support", **HELLO).model == "support@1"


def test_a_request_that_fails_in_the_engine_is_500_also_in_the_midst_of_a_stream(
    ask, registry, base_directory, tmp_path_factory
):
    huge = tmp_path_factory.mktemp("huge")
    models.write_overflowing_adapter(huge, base_directory)
    registry.publish("huge", huge)
    with pytest.raises(openai.InternalServerError, match="not finite"):
        ask.chat.completions.create(model="huge", **HELLO)
    with pytest.raises(openai.APIError, match="not finite"):
        list(ask.chat.completions.create(model="huge", stream=True, **HELLO))
    assert ask.chat.completions.create(model="tiny", **HELLO).choices


def schema(name: str, content: dict) -> dict:
    """Parameters that ask for an answer of this schema."""
    asked = {"name": name, "schema": content}
    return {"response_format": {"type": "json_schema", "json_schema": asked}}


def deep(levels: int) -> dict:
    return {"type": "array", "items": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"top_k": -2}}, "top_k"),
        ({"extra_body": {"min_p": 1.1}}, "min_p"),
        ({"extra_body": {"min_tokens": 6}}, "min_tokens"),
        ({"extra_body": {"stop_token_ids": [-1]}}, "stop_token_ids.0"),
        ({"extra_body": {"stop_token_ids": [124]}}, "stop_token_ids"),
        ({"logit_bias": {"124": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"word": 1}}, "logit_bias.word.[key]"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, None),
        (schema("person", {"type": "objekt"}), "response_format"),
        (schema("person", {"type": "array", "uniqueItems": True}), "response_format"),
        (schema("deep", deep(200)), "response_format"),
        (schema("person", {}) | {"extra_body": {"min_tokens": 2}}, "min_tokens"),
        (schema("person", {}) | {"extra_body": {"ignore_eos": True}}, "ignore_eos"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs"),
    ],
    ids=str,
)
def test_a_parameter_that_cannot_be_obeyed_is_400_and_named(ask, changes, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask.chat.completions.create(model="support", **HELLO | changes)
    if param is not None:
        assert caught.value.param == param
        assert param.split(".")[0] in complaint(caught.value)


def test_a_schema_that_cannot_be_obeyed_is_400_that_names_it_and_why(ask):
    for route in (ask.chat.completions, ask.completions):
        prompt = {"prompt": "hello"} if route is ask.completions else HELLO
        asked = schema("person", {"type": "objekt"})
        with pytest.raises(openai.BadRequestError, match=r"'person'.*objekt"):
            route.create(model="support", extra_body=asked, **prompt)


def test_without_llguidance_a_form_is_400_that_names_the_way_out(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match=r"adaptery\[structured\]") as caught:
        ask.chat.completions.create(model="support", **schema("any", {}), **HELLO)
    assert caught.value.param == "response_format"


def test_an_unknown_parameter_is_400_and_a_harmless_one_is_accepted(ask):
    with pytest.raises(openai.BadRequestError, match="beams=5 is not supported"):
        ask.chat.completions.create(model="support", extra_body={"beams": 5}, **HELLO)
    greedy = HELLO | {"temperature": 0}
    plain = ask.chat.completions.create(model="support", **greedy)
    dressed = ask.chat.completions.create(
        model="support",
        user="me",
        metadata={"a": "b"},
        store=False,
        presence_penalty=0,
        tools=[],
        response_format={"type": "text"},
        extra_body={"stop": None, "seed": None},
        **greedy,
    )
    assert dressed.choices == plain.choices


def test_what_exceeds_the_context_is_400(ask):
    long = {"messages": [{"role": "user", "content": "b" * 300}]}
    for asked in (long, HELLO | {"max_tokens": 250}):
        with pytest.raises(openai.BadRequestError, match="256") as caught:
            ask.chat.completions.create(model="support", **asked)
        assert caught.value.code == "context_length_exceeded"


def test_prompts_that_are_no_prompts_are_400(ask):
    for prompt in ("", [], [5, 128], [-1], [[]]):
        with pytest.raises(openai.BadRequestError):
            ask.completions.create(model="support", prompt=prompt)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{% if %}", "{{ raise_exception('no') }}"])
def test_a_template_that_fails_is_400(ask, registry, adapters, template):
    name = f"template-{len(template)}"
    registry.publish(name, adapters["wide"], template=template)
    with pytest.raises(openai.BadRequestError, match="template"):
        ask.chat.completions.create(model=name, **HELLO)


def test_a_template_cannot_reach_out_of_its_sandbox(ask, registry, adapters):
    registry.publish(
        "sly", adapters["wide"], template="{{ ''.__class__.__mro__[1].__subclasses__() }}"
    )
    with pytest.raises(openai.BadRequestError, match="template"):
        ask.chat.completions.create(model="sly", **HELLO)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"", 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/v1/nothing", b"", 404),
        ("GET", "/v1/models/nothing", b"", 404),
    ],
)
def test_requests_that_are_none_get_error_objects(server, method, path, content, status):
    answer = httpx.request(
        method, server + path, content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_name_of_both_base_and_adapter_is_refused(base, config, registry, adapters):
    registry.publish("both", adapters["wide"])
    config = config.model_copy(update={"served_name": "both"})
    engine = TorchEngine(base, config, "thread")
    with running_server(engine, registry, config) as address, client(address) as ask:
        with pytest.raises(openai.BadRequestError, match="both@live"):
            ask.chat.completions.create(model="both", **HELLO)
        assert ask.chat.completions.create(model="both@live", **HELLO).model == "both@1"


def test_with_an_api_key_everything_but_health_needs_it(base, config, registry):
    keys = (SecretStr("first"), SecretStr("sécond"))
    config = config.model_copy(update={"api_keys": keys})
    with running_server(TorchEngine(base, config, "thread"), registry, config) as address:
        for key in ("first", "sécond"):
            header = {"authorization": f"Bearer {key}".encode()}
            assert httpx.get(f"{address}/v1/models", headers=header).status_code == 200
        for key in ("", "wrong", "firs", "firstt"):
            with client(address, key or "x") as ask, pytest.raises(openai.AuthenticationError) as e:
                ask.chat.completions.create(model="tiny", **HELLO)
            assert e.value.code == "invalid_api_key"
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nothing"):
            assert httpx.get(address + path).status_code == 401
            basic = httpx.get(address + path, headers={"authorization": "Basic first"})
            assert basic.status_code == 401
        for path in ("/health", "/ready"):
            assert httpx.get(address + path).status_code == 200


@pytest.mark.anyio
async def test_an_engine_that_is_not_running_is_503_but_health_and_models_answer(
    base, config, registry
):
    app = create_app(TorchEngine(base, config, "thread"), registry, config)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/chat/completions", json={"model": "tiny", **HELLO})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "not_ready"
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/v1/models")).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(("error", "status"), [(RegistryError, 503), (EngineError, 500)])
async def test_a_registry_that_fails_fails_the_request(base, config, registry, error, status):
    class Failing:
        def resolve(self, ref):
            raise error("The catalogue is locked.")

        def __getattr__(self, name):
            return getattr(registry, name)

    engine = TorchEngine(base, config, "thread")
    await engine.start()
    transport = httpx.ASGITransport(create_app(engine, Failing(), config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/chat/completions", json={"model": "support", **HELLO})
    await engine.close()
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "The catalogue is locked."
