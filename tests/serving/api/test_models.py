"""The list of models, and what Prometheus is told."""

import httpx
import pytest

from adaptery.types import BaseIdentity

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def registry(registry, adapters):
    registry.promote("support", 2, "canary")
    registry.publish(
        "foreign", adapters["wide"], base=BaseIdentity(id="other/base", digest="c" * 64)
    )
    return registry


def test_the_list_holds_the_base_and_every_name_of_its_adapters(ask, base):
    cards = {model.id: model for model in ask.models.list()}
    assert {name: card.root for name, card in cards.items()} == {
        "tiny": base.identity.id,
        "support": "support@1",
        "support@canary": "support@2",
        "support@1": "support@1",
        "support@2": "support@2",
        "news": "news@1",
        "news@1": "news@1",
    }
    assert cards["support"].parent == "tiny"


def test_every_model_that_is_listed_answers_and_can_be_retrieved(ask, registry):
    for model in ask.models.list():
        assert ask.models.retrieve(model.id) == model
        assert ask.chat.completions.create(model=model.id, **HELLO).model in (model.root, "tiny")
    second = registry.published["support"][1]
    assert ask.models.retrieve(f"support@sha256:{second.digest[:8]}").root == "support@2"


def test_metrics_have_a_label_for_each_version(ask, server):
    for model in ("support@1", "support@2", "tiny"):
        ask.chat.completions.create(model=model, temperature=0, **HELLO)
    told = httpx.get(f"{server}/metrics").text
    for model in ("support@1", "support@2", "tiny"):
        assert f'adaptery_requests_total{{model="{model}",outcome="ok"}}' in told
        assert f'adaptery_answer_tokens_total{{model="{model}"}}' in told
        assert f'adaptery_request_seconds_count{{model="{model}"}}' in told
    assert 'adaptery_resident{model="support@2"} 1.0' in told
    assert "adaptery_ready 1.0" in told
