"""Small random models and adapters, and the truth about them: transformers and PEFT, one by one."""

import json
import string
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

END, TURN = "<|end|>", "<|turn|>"
CHARACTERS = [*string.printable[:95], "\n", *"äöüßéèçñ€→…“”αβγδ你好世界日本語мирждш"]
VOCABULARY = 128
CHAT_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
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
    "tie_word_embeddings": True,
}


def write_tokenizer(directory: Path) -> None:
    """One token per character, an end token and a chat template."""
    vocabulary = {text: i for i, text in enumerate([END, TURN, "<|unknown|>", *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        unk_token="<|unknown|>",
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)


def write_base(directory: Path, model: PreTrainedModel) -> Path:
    """`model` as a base on disk, with our tokenizer. Its end token is the tokenizer's."""
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
    return write_base(directory, LlamaForCausalLM(LlamaConfig(**SHAPE)))


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
