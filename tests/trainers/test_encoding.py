import copy
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import ByteLevel
from transformers import PreTrainedTokenizerFast

from adaptery.base_model import LocalBase
from adaptery.errors import DataError
from adaptery.trainers.data.rows import Conversation, Message
from adaptery.trainers.encoding import IGNORED, Encoder, Example

# Qwen3's habit: only the last answer keeps its (empty) thoughts.
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
ALTERNATING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat(*turns: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Message(*turn) for turn in turns), "rows.jsonl:7")


def asked(answer: str) -> Conversation:
    return chat(("user", "what is this"), ("assistant", answer))


def learned(encoder: Encoder, example: Example) -> str:
    """The text that is learned, end tokens included."""
    return encoder.tokenizer.decode([label for label in example.labels if label != IGNORED])


@pytest.fixture
def with_template(base: LocalBase) -> Callable[[str], Encoder]:
    def make(template: str) -> Encoder:
        tokenizer: PreTrainedTokenizerFast = copy.deepcopy(base.tokenizer)
        tokenizer.chat_template = template
        return Encoder(tokenizer)

    return make


def test_exactly_the_answer_and_its_end_are_learned(encoder: Encoder) -> None:
    example = encoder.encode(chat(("system", "be brief"), ("user", "hi"), ("assistant", "the sky")))
    assert learned(encoder, example) == "the sky<|im_end|>"
    assert encoder.tokenizer.decode(example.ids) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nthe sky<|im_end|>\n"
    )
    assert all(
        label in (IGNORED, token) for token, label in zip(example.ids, example.labels, strict=True)
    )


def test_every_assistant_turn_is_learned_and_no_other(encoder: Encoder) -> None:
    example = encoder.encode(
        chat(("user", "one"), ("assistant", "a blue"), ("user", "two"), ("assistant", "a sun"))
    )
    assert learned(encoder, example) == "a blue<|im_end|>a sun<|im_end|>"
    assert example.learned == sum(label != IGNORED for label in example.labels)
    assert example.answer == "a sun"


def test_the_prompt_is_what_a_server_would_be_asked(encoder: Encoder) -> None:
    example = encoder.encode(
        chat(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))
    )
    assert encoder.tokenizer.decode(example.prompt) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n"
    )


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=30)


@settings(deadline=None, derandomize=True)
@given(question=TEXT, answer=TEXT.filter(str.strip))
def test_what_is_learned_follows_what_is_asked_token_by_token(
    encoder: Encoder, question: str, answer: str
) -> None:
    try:
        example = encoder.encode(chat(("user", question), ("assistant", answer)))
    except DataError:
        assert answer[0].isspace()
        return
    start = len(example.prompt)
    assert example.ids[:start] == example.prompt
    assert set(example.labels[:start]) <= {IGNORED}
    end = example.ids.index(encoder.tokenizer.eos_token_id, start) + 1
    assert example.labels[start:end] == example.ids[start:end]
    assert set(example.labels[end:]) <= {IGNORED}


@pytest.mark.parametrize("answer", [" blue", "blue ", "  blue", "blue\n", "🙂", "日本", "1 2 3"])
def test_unusual_answers_are_learned_whole(encoder: Encoder, answer: str) -> None:
    assert learned(encoder, encoder.encode(asked(answer))) == f"{answer}<|im_end|>"


@pytest.mark.parametrize("answer", ["\nblue", "\n\nblue"])
def test_an_answer_that_merges_with_the_turns_opening_is_refused(
    encoder: Encoder, answer: str
) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*merges.*[Ss]trip"):
        encoder.encode(asked(answer))


def test_offsets_that_leave_white_space_out_are_no_obstacle(base: LocalBase) -> None:
    """Several published tokenizers trim them."""
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    encoder = Encoder(tokenizer)
    for answer in (" blue", "blue sky", "the\nsky"):
        assert learned(encoder, encoder.encode(asked(answer))) == f"{answer}<|im_end|>"


def test_an_answer_that_contains_the_end_token_is_refused(encoder: Encoder) -> None:
    """What stands behind it would not be learned."""
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*<\|im_end\|>"):
        encoder.encode(asked("blue<|im_end|>and more"))


def test_a_template_without_the_end_token_is_refused(with_template) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*<\|im_end\|>.*never learn to stop"):
        with_template(PLAIN).encode(asked("blue"))


def test_a_template_that_rewrites_earlier_turns_is_refused(with_template) -> None:
    encoder = with_template(REWRITING)
    example = encoder.encode(asked("blue"))
    assert learned(encoder, example) == "<think>\n\n</think>\n\nblue<|im_end|>"
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*rewrites earlier turns.*Split"):
        encoder.encode(chat(("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "b")))


def test_a_template_that_trims_answers_learns_them_trimmed(with_template) -> None:
    encoder = with_template(ALTERNATING)
    assert learned(encoder, encoder.encode(asked("  blue\n"))) == "blue<|im_end|>"


def test_a_template_that_refuses_a_role_is_a_sentence_that_names_the_row(with_template) -> None:
    encoder = with_template(ALTERNATING)
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*no system role here"):
        encoder.encode(chat(("system", "s"), ("user", "q"), ("assistant", "a")))


def test_a_broken_template_is_a_sentence(with_template) -> None:
    with pytest.raises(DataError, match="template"):
        with_template("{% for %}").encode(asked("blue"))


def test_a_tokenizer_without_template_is_a_sentence(with_template) -> None:
    with pytest.raises(DataError, match="no chat template"):
        with_template("").encode(asked("blue"))


def test_a_tokenizer_without_end_token_is_a_sentence(base: LocalBase) -> None:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        Encoder(tokenizer)
