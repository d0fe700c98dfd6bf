"""Failures that users of other trainers report: trained "successfully", and wrong.

Each test names the thread. Those about data end with exit code 3, the remedy in a sentence, before
any weight is loaded: the base of these tests has none that could be.
"""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from adaptery.base_model import LocalBase
from adaptery.errors import DataError, Interrupted
from adaptery.trainers.audit import Part, Rules, audit
from adaptery.trainers.batches import pad
from adaptery.trainers.config import RunConfig
from adaptery.trainers.data.rows import Completion, Conversation, Message, Row
from adaptery.trainers.encoding import IGNORED, Encoder, Example
from adaptery.trainers.watching import Silent
from tests.models import write_rows, write_tiny_base
from tests.trainers.data.reading import write_json
from tests.trainers.runs import InterruptAt, resume, rows, run, tensors
from tests.trainers.tokenizers import TOKENIZERS


@pytest.fixture
def weightless(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base, whose weights are not its own any more: loading it would fail."""
    directory = Path(shutil.copytree(tiny_base, tmp_path / "weightless"))
    save_file({"none": torch.zeros(1)}, directory / "model.safetensors")
    return directory


def with_template(base: Path, template: str) -> Path:
    (base / "chat_template.jinja").write_text(template)
    return base


def refusal(folder: Path, base: Path, /, **changes: object) -> str:
    """What the refusal to train says; no run directory is left."""
    with pytest.raises(DataError) as error:
        run(folder, base, **changes)
    assert error.value.exit_code == 3
    assert not (folder / "runs").exists()
    return str(error.value)


def chat(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), "rows.jsonl:1")


def test_the_base_of_these_tests_cannot_be_loaded(tmp_path: Path, weightless: Path) -> None:
    with pytest.raises(Exception, match=r"\S") as error:
        run(tmp_path, weightless)
    assert not isinstance(error.value, DataError)


def test_trl_976_padding_with_the_end_token_does_not_mask_the_end_token(base: LocalBase) -> None:
    """pad = eos, the collator masks every pad, and the model never learns to stop."""
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    examples = Encoder(tokenizer).encode_all([chat("q", "blue"), chat("the sky " * 9, "red")])
    end = tokenizer.eos_token_id
    batch = pad([(row.ids, row.labels) for row in examples], tokenizer.pad_token_id)
    assert (batch.ids == end).sum() > 2 * len(examples)  # the padding, and the turns' own
    assert [(labels == end).sum().item() for labels in batch.labels] == [1, 1]
    assert (batch.labels[batch.mask == 0] == IGNORED).all()


def test_trl_976_an_end_token_that_something_masked_is_refused(encoder: Encoder) -> None:
    example = encoder.encode(chat("q", "blue"))
    end = encoder.tokenizer.eos_token_id
    masked = tuple(IGNORED if label == end else label for label in example.labels)
    row = Example(example.ids, masked, example.prompt, "blue", "rows.jsonl:7")
    part = Part("rows.jsonl", "messages", [chat("q", "blue")], [row])
    with pytest.raises(DataError, match=r"never learn to stop.*\n  rows\.jsonl:7"):
        audit([part], Rules.of(encoder.tokenizer, 100)).refuse()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_trl_1623_the_end_token_follows_every_answer_and_every_text(kind: str) -> None:
    encoder = Encoder(TOKENIZERS[kind]())
    texts: list[Row] = [chat("q", "blue"), Completion("q", " blue", "o"), Completion("", "q", "p")]
    for example in encoder.encode_all(texts):
        learned = [label for label in example.labels if label != IGNORED]
        assert learned[-1] == encoder.tokenizer.eos_token_id


def test_trl_1623_a_template_without_end_token_is_refused(tmp_path: Path, weightless: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    message = refusal(tmp_path / "run", with_template(weightless, template))
    assert message.startswith("20 row(s) cannot be learned from")
    assert "never learn to stop" in message
    assert "train.jsonl:1\n" in message


def test_trl_6668_rows_whose_labels_are_all_masked_are_refused(encoder: Encoder) -> None:
    """There the loss is 0.0 and the run a success."""
    example = encoder.encode(chat("q", "blue"))
    row = Example(example.ids, (IGNORED,) * len(example.ids), example.ids, "blue", "rows.jsonl:3")
    part = Part("rows.jsonl", "messages", [chat("q", "blue")], [row])
    with pytest.raises(DataError, match=r"no token to learn.*\n  rows\.jsonl:3"):
        audit([part], Rules.of(encoder.tokenizer, 100)).refuse()


def test_trl_6668_a_template_that_drops_the_answers_is_refused(
    tmp_path: Path, weightless: Path
) -> None:
    template = (
        "{% for m in messages if m.role != 'assistant' %}<|im_start|>{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    assert "row(s) cannot be learned from" in refusal(
        tmp_path / "run", with_template(weightless, template)
    )


def test_openrlhf_393_a_template_that_writes_the_bos_leaves_it_at_one() -> None:
    """The template puts one, the tokenizer another."""
    encoder = Encoder(TOKENIZERS["llama"]())
    begin = encoder.tokenizer.bos_token_id
    assert encoder.tokenizer("a")["input_ids"][0] == begin  # it does put one
    asked = chat("q", "blue")
    for example in encoder.encode_all([asked, Completion("<s>a", " b", "o")]):
        assert example.ids.count(begin) == 1
    assert encoder.encode(asked).ids.count(begin) == 1


def test_openrlhf_393_two_bos_in_the_text_itself_are_refused(
    tmp_path: Path, weightless: Path
) -> None:
    template = (
        "<|endoftext|><|endoftext|>{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    settings = weightless / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("{", '{"bos_token": "<|endoftext|>",', 1))
    message = refusal(tmp_path / "run", with_template(weightless, template))
    assert "20 row(s) begin with two BOS tokens" in message


def test_llama_factory_a_row_that_is_too_long_is_refused_and_never_cut(
    tmp_path: Path, weightless: Path
) -> None:
    message = refusal(tmp_path / "run", weightless, data__max_length=20)
    assert "cutting them would teach cut-off answers" in message
    assert "train.jsonl:5: 22 tokens" in message
    assert "Raise data.max_length" in message


def test_llama_factory_rows_that_are_dropped_are_counted_and_the_others_whole(
    tmp_path: Path, tiny_base: Path
) -> None:
    said: list[str] = []

    class Listener:
        def phase(self, title: str, total: int) -> None: ...

        def advance(self, pieces: int = 1, **figures: float) -> None: ...

        def say(self, sentence: str) -> None:
            said.append(sentence)

    run(
        tmp_path,
        tiny_base,
        watcher=Listener(),
        data__max_length=20,
        data__too_long="drop",
        training__max_steps=1,
    )
    (dropped,) = [sentence for sentence in said if "data.max_length=20" in sentence]
    assert "They are dropped." in dropped
    assert dropped.startswith("6 row(s)")


def test_an_evaluation_row_that_was_trained_on_is_refused(tmp_path: Path, weightless: Path) -> None:
    held_out = rows(2, start=40)
    held_out.append([*rows(1, start=7)[0][:1], ("assistant", "another answer")])
    path = write_rows(tmp_path / "eval.jsonl", held_out)
    message = refusal(tmp_path / "run", weightless, data__eval=str(path))
    assert "1 of 3 row(s)" in message
    assert f"{path}:3 is {tmp_path / 'run' / 'train.jsonl'}:8, with another answer" in message


def test_label_words_of_unequal_length_are_refused(tmp_path: Path, weightless: Path) -> None:
    data = [{"text": f"row {n}", "label": ("no", "colourless")[n % 2]} for n in range(8)]
    path = write_json(tmp_path / "labels.jsonl", data)
    message = refusal(tmp_path / "run", weightless, data__train=str(path), task__kind="classify")
    assert "unequally many tokens" in message
    assert "'colourless': tokens [" in message
    assert "These would do: task.words=" in message


@pytest.mark.parametrize("way", ["words", "head"])
def test_data_of_a_single_class_is_refused(tmp_path: Path, weightless: Path, way: str) -> None:
    path = write_json(tmp_path / "labels.jsonl", [{"text": f"{n}", "label": 1} for n in range(8)])
    changes = {"data__train": str(path), "task__kind": "classify", "task__way": way}
    message = refusal(tmp_path / "run", weightless, **changes)
    assert "nothing to tell apart" in message


def test_too_long_is_refused_unless_the_user_says_otherwise() -> None:
    fields = RunConfig.model_fields["data"].annotation.model_fields  # type: ignore[union-attr]
    assert fields["too_long"].default == "refuse"


def test_lerobot_3459_a_resumed_run_keeps_the_weights_of_the_adapter(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Interrupted one step before its end, it ends where the whole run ends, not where one step
    from a fresh adapter leads."""
    whole = run(tmp_path / "whole", tiny_base)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", tiny_base, watcher=InterruptAt(9))
    (path,) = (tmp_path / "parts" / "runs").iterdir()
    resumed, fresh = resume(path), run(tmp_path / "fresh", tiny_base, training__max_steps=1)
    expected, found, lost = (tensors(result) for result in (whole, resumed, fresh))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not any(torch.equal(lost[name], found[name]) for name in lost)


def test_peft_1801_adaloras_ranks_move_to_the_budget(tiny_base: Path, tmp_path: Path) -> None:
    """Where `update_and_allocate` is never called, every layer keeps the initial rank."""
    result = run(tmp_path, tiny_base, method="adalora", training__epochs=4)
    ranks = [len(a) for name, a in tensors(result).items() if "lora_A" in name]
    initial, layers = 6, 14  # 1.5 times lora.r; seven modules in each of two layers
    assert sum(ranks) == 4 * layers < initial * layers
    assert len(set(ranks)) > 1


def test_qwen3_1064_a_base_whose_end_token_was_never_trained_is_told_of(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    heard = Sayings()
    run(tmp_path / "trained", base, watcher=heard, training__max_steps=1)
    assert "untrained" not in " ".join(heard.said)
    weights = load_file(base / "model.safetensors")
    end = AutoTokenizer.from_pretrained(base).eos_token_id
    weights["model.embed_tokens.weight"][end] *= 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    run(tmp_path / "untrained", base, watcher=heard, training__max_steps=1)
    assert "end token '<|im_end|>' looks untrained" in " ".join(heard.said)


class Sayings(Silent):
    """Keeps what a watcher is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)
