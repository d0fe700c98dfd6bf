"""Tokens to text as they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as bpe
from transformers import PreTrainedTokenizerFast

from adaptery.serving.torch.text import TextStream


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that every character but ASCII is several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(bpe.BPE({"<|end|>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: words begin with ▁, which the first one loses; unknown characters are bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abn,.!"]
    tokens += ["▁a", "an", "▁an", "ban"]
    merges = [("▁", "a"), ("a", "n"), ("▁", "an"), ("b", "an")]
    vocabulary = {text: token for token, text in enumerate(tokens)}
    backend = Tokenizer(bpe.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZER = byte_tokenizer()
FALLBACK = fallback_tokenizer()


def pieces(text: str, *stop: str) -> tuple[list[str], bool]:
    """What the stream gives out token by token, and whether it stopped."""
    stream = TextStream(TOKENIZER, stop)
    out = []
    for token in TOKENIZER(text)["input_ids"]:
        out.append(stream.push(token))
        if stream.stopped:
            return out, True
    return [*out, stream.flush()], False


@given(st.text(max_size=30))
def test_the_pieces_make_the_text_and_no_piece_holds_half_a_character(text: str):
    parts, _ = pieces(text)
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


@given(st.text("ab€", max_size=12), st.lists(st.text("ab€", min_size=1, max_size=3), max_size=2))
def test_a_stop_string_ends_the_text_where_it_first_stands(text: str, stops: list[str]):
    parts, stopped = pieces(text, *stops)
    places = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(places)
    if places:
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        seen = text[: min(ends)]  # the stream ends with the first stop string that is complete
        places = [seen.find(stop) for stop in stops if stop in seen]
    assert "".join(parts) == (text[: min(places)] if places else text)


def test_text_goes_out_as_soon_as_no_stop_string_can_begin_in_it():
    assert pieces("xenemy", "end")[0] == ["x", "", "", "en", "em", "y", ""]


def test_a_character_that_stays_open_is_what_the_tokenizer_makes_of_it():
    stream = TextStream(TOKENIZER, ())
    ids = TOKENIZER("ab€")["input_ids"][:-1]
    assert [stream.push(token) for token in ids] == ["a", "b", "", ""]
    assert "ab" + stream.flush() == TOKENIZER.decode(ids)


def test_bytes_that_are_no_text_do_not_hold_up_what_follows():
    stream = TextStream(TOKENIZER, ())
    wrong = TOKENIZER("€")["input_ids"][-1]
    text = "".join(stream.push(token) for token in [wrong] * 9 + TOKENIZER("so")["input_ids"])
    assert text.endswith("so")
    assert set(text[:-2]) == {"\ufffd"}


@given(st.lists(st.text(" aban,.!€😀é", min_size=1, max_size=8), min_size=1, max_size=5))
@pytest.mark.parametrize("tokenizer", [TOKENIZER, FALLBACK], ids=["bytes", "fallback"])
def test_the_pieces_are_what_the_tokenizer_decodes_with_special_tokens_between(tokenizer, texts):
    end = tokenizer.eos_token_id
    ids = [token for text in texts for token in (*tokenizer(text)["input_ids"], end)]
    stream = TextStream(tokenizer, ())
    parts = [stream.push(token) for token in ids]
    assert "".join([*parts, stream.flush()]) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in part for part in parts)


def test_a_tokenizer_that_decodes_in_its_own_way_is_asked_itself():
    class Loud(PreTrainedTokenizerFast):
        def _decode(self, *args, **kwargs):
            return super()._decode(*args, **kwargs).upper()

    loud = Loud(tokenizer_object=TOKENIZER.backend_tokenizer, eos_token="<|end|>")
    stream = TextStream(loud, ())
    assert "".join(stream.push(token) for token in loud("quiet")["input_ids"]) == "QUIET"


def test_special_tokens_have_no_text():
    stream = TextStream(TOKENIZER, ())
    assert stream.push(0) == ""
    assert stream.push(TOKENIZER("a")["input_ids"][0]) == "a"


@pytest.mark.parametrize("stop", [(), ("zz",)])
def test_flush_gives_what_was_held_back(stop):
    stream = TextStream(TOKENIZER, stop)
    ids = TOKENIZER("az")["input_ids"]
    given_out = "".join(stream.push(token) for token in ids)
    assert given_out + stream.flush() == "az"
