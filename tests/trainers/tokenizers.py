"""Small tokenizers of the kinds there are: how texts are split differs, and what is added."""

from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.models import WORDS, make_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
# Word by word, so that no token spans two words.
TEXTS = f"{WORDS} [INST] user system assistant [/INST] tool".split() * 20


def llama() -> PreTrainedTokenizerFast:
    """SentencePiece's way: spaces are `▁`, one is put before each piece, `<s>` opens every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_of_it = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *SPECIAL, *bytes_of_it])
    return finished(tokenizer, trainer, LLAMA, "<s>", "</s>")


def metaspace() -> PreTrainedTokenizerFast:
    """A unigram model, a space put before the first piece of a text only."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>"
    )
    return finished(tokenizer, trainer, CHATML, "<s>", "<|im_end|>")


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's way: lower case, white space lost, so that answers are other than their text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>", *SPECIAL])
    return finished(tokenizer, trainer, CHATML, "<s>", "<|im_end|>", ends=True)


def stripping() -> PreTrainedTokenizerFast:
    """Special tokens that swallow the white space around them, as Phi's and BERT's mask do."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken("<|im_start|>", lstrip=True, rstrip=True, special=True)
            ]
        }
    )
    tokenizer.eos_token = AddedToken("<|im_end|>", rstrip=True, lstrip=True, special=True)
    return tokenizer


def unsure() -> PreTrainedTokenizerFast:
    """Added tokens that are looked for only after normalizing, or only as whole words."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("sky", single_word=True, normalized=True, special=True)])
    tokenizer.add_tokens([AddedToken("assistant\nthe", normalized=False, special=True)])
    return tokenizer


def finished(
    tokenizer: Tokenizer,
    trainer: trainers.Trainer,
    template: str,
    begin: str,
    end: str,
    *,
    ends: bool = False,
) -> PreTrainedTokenizerFast:
    """Trained, and with what a text is put between."""
    tokenizer.train_from_iterator(TEXTS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (begin, end)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}" if ends else f"{begin} $A", special_tokens=ids
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, eos_token=end, unk_token="<unk>"
    )
    fast.chat_template = template
    return fast


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": make_tokenizer,
    "llama": llama,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
    "stripping": stripping,
    "unsure": unsure,
}
