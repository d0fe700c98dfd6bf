"""Small random models and adapters, and the truth about them: transformers and PEFT, one by one."""

import json
import string
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as bpe
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from adaptery.types import ProbePrompt, TokenScore

END, TURN = "<|endoftext|>", "<|turn|>"
PAIRS = [vowel + other for vowel in "aeiou" for other in "lnrst"]
VOCABULARY = 124
CHAT_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|endoftext|>{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,  # large, so that the next token is never a close call
    "tie_word_embeddings": False,
}


def write_tokenizer(directory: Path) -> None:
    """ASCII characters and a few pairs of them, an end token and a chat template.

    Byte-level, because transformers takes any tokenizer beside a Qwen2 model for one of its kind.
    """
    characters = [c.translate({32: "Ġ", 10: "Ċ"}) for c in (*string.printable[:95], "\n")]
    tokens = [END, TURN, "<|unused|>", *characters, *PAIRS]
    vocabulary = {text: i for i, text in enumerate(tokens)}
    backend = Tokenizer(bpe.BPE(vocabulary, [(pair[0], pair[1]) for pair in PAIRS]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)


def write_base(directory: Path, model: PreTrainedModel) -> Path:
    """`model` as a base on disk, with our tokenizer, whose end token is its own.

    Special tokens score 0, so that greedy answers neither end early nor hold tokens without text.
    """
    if not model.config.tie_word_embeddings:
        model.get_output_embeddings().weight.data[:3] = 0
    model.generation_config.eos_token_id = [0]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_qwen2(directory: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    return write_base(directory, Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, **changes})))


def write_llama(directory: Path) -> Path:
    torch.manual_seed(1)
    return write_base(
        directory, LlamaForCausalLM(LlamaConfig(**SHAPE | {"tie_word_embeddings": True}))
    )


def load_base(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def write_adapter(directory: Path, base: Path, seed: int, **config: object) -> Path:
    """A random LoRA adapter, written by PEFT, that changes the base's answers."""
    torch.manual_seed(seed)
    lora = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **config)
    peft = get_peft_model(load_base(base), lora)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    peft.save_pretrained(directory)
    return directory


def truth(base: Path, adapter: Path | None, prompt: list[int], tokens: int) -> list[int]:
    """Greedy answer of transformers and PEFT to a single prompt, end token included."""
    model = load_base(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        answer = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
        )
    return answer[0, len(prompt) :].tolist()


def edit_config(directory: Path, **changes: object) -> None:
    """Change fields of an adapter's `adapter_config.json`."""
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_overflowing_adapter(directory: Path, base: Path) -> Path:
    """An adapter of finite numbers that makes the model compute others."""
    write_adapter(directory, base, 1, r=2, target_modules=["down_proj"])
    edit_config(directory, lora_alpha=1e38)
    tensors = load_file(directory / "adapter_model.safetensors")
    large = {key: t * 1e6 if "lora_A" in key else t for key, t in tensors.items()}
    save_file(large, directory / "adapter_model.safetensors")
    return directory


def probe_of(base: Path, adapter: Path, prompts: list[list[int]]) -> list[ProbePrompt]:
    """The probe that training this adapter would have recorded."""
    alone, trained = load_base(base), PeftModel.from_pretrained(load_base(base), adapter).eval()
    probe = []
    for prompt in prompts:
        before, after = (next_scores(model, prompt) for model in (alone, trained))
        top = [
            TokenScore(token=token, trained=after[token], base=before[token])
            for token in after.topk(5).indices.tolist()
        ]
        probe.append(ProbePrompt(token_ids=tuple(prompt), top=tuple(top)))
    return probe


@torch.inference_mode()
def next_scores(model: torch.nn.Module, prompt: list[int]) -> torch.Tensor:
    """Log-probabilities of the token after `prompt`."""
    return model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)


def chat_truth(base: Path, adapter: Path | None, content: str, tokens: int) -> str:
    """Greedy answer of transformers and PEFT to one user message, as text."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    answer = truth(base, adapter, prompt, tokens)
    return tokenizer.decode(answer, skip_special_tokens=True)
