"""Many rows at once give what they give one by one, whatever the tokenizer."""

import copy
import functools
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptery.base_model import LocalBase
from adaptery.errors import DataError
from adaptery.trainers.data.findings import DefectiveData
from adaptery.trainers.data.rows import Completion, Conversation, Labelled, Message, Row
from adaptery.trainers.encoding import Encoder, Example
from adaptery.trainers.encoding.example import Unencodable
from adaptery.trainers.encoding.quick import THREADS, Quick
from tests.trainers.data.reading import read
from tests.trainers.tokenizers import TOKENIZERS

SECTIONS = Path(__file__).parents[2] / "examples" / "sections" / "train.jsonl"
PIECES = [
    *(
        "the sky",
        " ",
        "\n",
        "\n\n",
        "  ",
        "is blue",
        "BLUE",
        "a",
        "é",
        "日本",
        "🙂",
        "\u200d",
        "\t",
    ),
    *("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[/INST]", "assistant\nthe", "<|im_", "sky"),
]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
# The same rows every time, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
TURNS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3)


def chat(turns: list[tuple[str, str]], *, system: str = "", tail: str = "") -> Conversation:
    messages = [Message("system", system)] if system else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    messages += [Message("user", tail)] if tail else []
    return Conversation(tuple(messages), "rows.jsonl:1")


@functools.cache
def encoder_of(kind: str) -> Encoder:
    return Encoder(TOKENIZERS[kind]())


def outcome(result: Example | Unencodable) -> Example | tuple[str, str]:
    return result if isinstance(result, Example) else (result.code, str(result))


def check_same(encoder: Encoder, rows: list[Row]) -> None:
    quick = [outcome(result) for result in encoder.attempts(rows)]
    assert quick == [outcome(encoder.attempt(row)) for row in rows]


@pytest.mark.parametrize("kind", TOKENIZERS)
@STEADY
@given(turns=TURNS, system=CONTENT, tail=CONTENT)
def test_random_conversations_are_the_same_examples(
    kind: str, turns: list[tuple[str, str]], system: str, tail: str
) -> None:
    check_same(encoder_of(kind), [chat(turns, system=system, tail=tail), chat(turns[:1])])


@pytest.mark.parametrize("kind", TOKENIZERS)
@STEADY
@given(prompt=CONTENT, completion=CONTENT)
def test_random_completions_are_the_same_examples(kind: str, prompt: str, completion: str) -> None:
    check_same(encoder_of(kind), [Completion(prompt, completion, "o"), Completion("", prompt, "p")])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_plain_conversations_need_no_second_look(kind: str) -> None:
    rng = random.Random(0)
    words = "which colour has sky in spring blue sun yellow tool for reading".split()  # noqa: SIM905
    say = lambda: " ".join(rng.choices(words, k=rng.randint(1, 9)))  # noqa: E731
    rows: list[Row] = [chat([(say(), say()) for _ in range(n % 3 + 1)]) for n in range(60)]
    encoder = encoder_of(kind)
    assert None not in Quick(encoder).examples(rows)
    check_same(encoder, rows)


def test_real_rows_are_the_same_examples_and_need_no_second_look(encoder: Encoder) -> None:
    rows = read(SECTIONS).rows
    assert len(rows) > 1000
    assert None not in Quick(encoder).examples(rows)
    assert encoder.encode_all(rows) == [encoder.attempt(row) for row in rows]


def test_a_tokenizer_that_is_not_fast_goes_the_exact_way(encoder: Encoder) -> None:
    class Plain:
        """What a tokenizer written in Python offers."""

        is_fast = False

        def __init__(self, fast: object) -> None:
            self.fast = fast

        def __getattr__(self, name: str) -> object:
            if name in ("added_tokens_decoder", "backend_tokenizer"):
                raise AttributeError(name)
            return getattr(self.fast, name)

        def __call__(self, text: str, **options: object) -> object:
            return self.fast(text, **options)

    plain = Encoder(Plain(encoder.tokenizer))
    rows = [chat([("which colour", "blue")]), Completion("a", " b", "o")]
    assert plain.encode_all(rows) == encoder.encode_all(rows)


def test_rows_without_end_are_one_finding_and_all_are_named(base: LocalBase) -> None:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    rows = [
        Conversation((Message("user", "q"), Message("assistant", "a")), f"rows.jsonl:{n}")
        for n in range(1, 9)
    ]
    with pytest.raises(DefectiveData) as error:
        Encoder(tokenizer).encode_all(rows)
    (finding,) = error.value.findings
    assert finding.code == "no-end-token"
    assert finding.places == tuple(row.origin for row in rows)
    assert str(error.value).endswith("rows.jsonl:5\n  … and 3 more.")


def test_several_defects_are_several_findings(encoder: Encoder) -> None:
    rows: list[Row] = [
        chat([("q", "a<|im_end|>b")]),
        Completion("a ", "sky", "o:1"),
        Labelled(("a",), "b", "o:2"),
        chat([("q", "a")]),
    ]
    with pytest.raises(DefectiveData) as error:
        encoder.encode_all(rows)
    codes = {finding.code: finding.places for finding in error.value.findings}
    assert codes.keys() == {"end-token-inside", "wrong-task", "merged-answer"}
    assert codes["wrong-task"] == ("o:2",)


def test_the_end_of_a_later_turn_is_not_taken_for_an_answers_own(base: LocalBase) -> None:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.role == 'user' or loop.index == 4 %}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (result,) = Encoder(tokenizer).attempts([chat([("q", "a"), ("r", "b")])])
    assert isinstance(result, Unencodable)
    assert result.code == "no-end-token"


def test_progress_counts_every_row(encoder: Encoder) -> None:
    done: list[int] = []
    encoder.encode_all([chat([("q", "a")])] * 1200, done.append)
    assert sum(done) == 1200
    assert len(done) > 1


@pytest.mark.parametrize("before", ["false", None])
def test_the_environment_is_left_as_it_was(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(THREADS, raising=False)
    else:
        monkeypatch.setenv(THREADS, before)
    encoder.encode_all([chat([("q", "a")])])
    assert os.environ.get(THREADS) == before


def test_a_completion_is_learned_with_its_end_and_its_prompt_is_not(encoder: Encoder) -> None:
    example = encoder.complete(Completion("the sky is", " blue", "o"))
    end = encoder.tokenizer.eos_token_id
    assert encoder.tokenizer.decode(example.ids) == "the sky is blue<|im_end|>"
    assert encoder.tokenizer.decode(example.prompt) == "the sky is"
    assert example.ids[: len(example.prompt)] == example.prompt
    assert example.labels == (-100,) * len(example.prompt) + example.ids[len(example.prompt) :]
    assert example.ids[-1] == end
    assert example.answer == " blue"


def test_of_plain_text_everything_is_learned(encoder: Encoder) -> None:
    example = encoder.complete(Completion("", "the sky is blue", "o"))
    assert example.labels == example.ids
    assert example.prompt == ()


def test_a_completion_that_merges_with_its_prompt_is_refused(encoder: Encoder) -> None:
    with pytest.raises(DataError, match=r"o:3: .*merges.*Move white space"):
        encoder.complete(Completion("which colour ", "sky", "o:3"))


@pytest.mark.parametrize("kind", ["llama", "metaspace", "wordpiece"])
@pytest.mark.parametrize("prompt", ["the sky is", "<s>the sky is", ""])
def test_a_completion_begins_with_one_bos(kind: str, prompt: str) -> None:
    encoder = encoder_of(kind)
    example = encoder.complete(Completion(prompt, " blue", "o"))
    begin, end = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    assert example.ids.count(begin) == 1
    assert example.ids[0] == begin
    assert example.labels[0] == -100
    assert example.ids.count(end) == 1
    assert example.ids[-1] == example.labels[-1] == end


def test_completions_need_no_chat_template(base: LocalBase) -> None:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = None
    encoder = Encoder(tokenizer)
    assert len(encoder.encode_all([Completion("a", " b", "o")])) == 1
    with pytest.raises(DataError, match="no chat template"):
        encoder.encode_all([chat([("q", "a")])])
