"""The list of models, and what Prometheus is told."""

from typing import Any

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


def page(server: str, **query: object) -> dict[str, Any]:
    answer = httpx.get(f"{server}/v1/models", params=query)
    return {"status": answer.status_code, **answer.json()}


def test_names_come_before_versions(server):
    ids = [card["id"] for card in page(server)["data"]]
    assert ids == [
        *["tiny", "news", "support@canary", "support"],
        *["news@1", "support@1", "support@2"],
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
def test_pages_together_are_the_list(server, limit):
    whole = page(server)["data"]
    found, more = [], {"has_more": True}
    while more["has_more"]:
        after = {"after": more["last_id"]} if found else {}
        more = page(server, limit=limit, **after)
        assert 0 < len(more["data"]) <= limit
        found += more["data"]
    assert found == whole
    assert page(server, limit=limit, after=found[-1]["id"])["data"] == []


def test_a_page_after_nothing_or_of_nothing_is_refused(server):
    assert page(server, after="nobody")["status"] == 404
    assert "last_id" in page(server, after="nobody")["error"]["message"]
    assert page(server, limit=0)["status"] == 400


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
