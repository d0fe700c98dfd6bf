"""Plain completions through the official client."""

import pytest

from tests.serving import models

GREEDY = {"temperature": 0, "max_tokens": 10}


@pytest.fixture
def prompts(base) -> dict[str, list[int]]:
    return {text: base.tokenizer(text)["input_ids"] for text in ("one", "another", "the end")}


@pytest.mark.parametrize("model", ["tiny", "support@1"])
def test_text_and_tokens_are_continued_alike(ask, base, base_directory, adapters, prompts, model):
    adapter = adapters["wide"] if model == "support@1" else None
    expected = [
        base.tokenizer.decode(
            models.truth(base_directory, adapter, ids, 10), skip_special_tokens=True
        )
        for ids in prompts.values()
    ]
    for prompt in (list(prompts), list(prompts.values())):
        answer = ask.completions.create(model=model, prompt=prompt, **GREEDY)
        assert [choice.text for choice in answer.choices] == expected
        assert answer.usage.prompt_tokens == sum(map(len, prompts.values()))
    for prompt in (next(iter(prompts)), next(iter(prompts.values()))):
        answer = ask.completions.create(model=model, prompt=prompt, **GREEDY)
        assert answer.choices[0].text == expected[0]


def test_a_stream_says_what_the_whole_answer_says(ask, prompts):
    asked = {"model": "support", "prompt": list(prompts), "n": 2, "seed": 3, "max_tokens": 10}
    whole = ask.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == list(range(6))
    texts = [""] * 6
    usage = None
    for chunk in ask.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert usage == whole.usage


def test_a_seed_repeats_the_answer_to_a_prompt_beside_others(ask, prompts):
    asked = {"model": "support", "n": 2, "seed": 3, "max_tokens": 10}
    together = ask.completions.create(prompt=["one", "the end"], **asked).choices
    alone = ask.completions.create(prompt="the end", **asked).choices
    assert [c.text for c in together[2:]] == [c.text for c in alone]
    assert alone[0].text != alone[1].text


def test_logprobs_belong_to_the_tokens_of_the_answer(ask):
    choice = ask.completions.create(model="support", prompt="one", logprobs=2, **GREEDY).choices[0]
    scores = choice.logprobs
    assert "".join(scores.tokens) == choice.text
    assert len(scores.token_logprobs) == len(scores.tokens) == 10
    for place, token in zip(scores.text_offset, scores.tokens, strict=True):
        assert choice.text[place:].startswith(token)
    for token, logprob, top in zip(
        scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True
    ):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values())


def test_sixteen_tokens_are_given_unless_told_otherwise(ask):
    answer = ask.completions.create(model="tiny", prompt="another", temperature=0)
    assert answer.usage.completion_tokens == 16
