"""Pre-train the small base model that ships in `examples/tiny-base/`, from nothing.

    python examples/make_tiny_base.py --output examples/tiny-base --epochs 3 --max-steps 2905

A Qwen2-shaped decoder of about 6 M parameters and its own byte-level BPE tokenizer are trained
on 50,155 Debian package descriptions (`data/corpus.txt.xz`). Every document is seen as plain
text and, once an epoch, as a chat turn made from it, so that the model writes passable English,
reads instructions and ends its turns with `<|im_end|>`. No document comes from a source package
that stands in the validation or test rows of the example tasks.
"""

import argparse
import copy
import json
import lzma
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CORPUS = Path(__file__).parent / "data" / "corpus.txt.xz"
END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTEXT = 512
HELD_OUT = 500  # documents kept back for the perplexity figure

# Qwen2's own pre-tokenization, so that transformers' Qwen2 tokenizer class would cut text alike.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read_documents() -> list[str]:
    """The corpus' documents: a title line, then paragraphs."""
    return lzma.open(CORPUS, "rt", encoding="utf-8").read().strip().split("\n\n")


def train_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose end-of-turn token is its end token."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents + ["system\nuser\nassistant\n"] * 1000, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=2 * CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def as_chat(document: str, titles: list[str], rng: random.Random) -> str:
    """One chat made from a document; the form is drawn at random."""
    title, _, body = document.partition("\n")
    words = body.split()
    form = rng.choice(["describe", "title", "choose", "continue"])
    if form == "continue" and len(words) < 20:
        form = "title"
    system = "You are a helpful assistant."
    if form == "describe":
        user, answer = f"Describe this package: {title}", body
    elif form == "title":
        system = "Give a short title for the text."
        user, answer = body, title
    elif form == "choose":
        options = [title, *rng.sample(titles, 3)]
        rng.shuffle(options)
        system = "Which title belongs to the text? Answer with one of: " + "; ".join(options) + "."
        user, answer = body, title
    else:
        cut = rng.randrange(8, len(words) - 8)
        system = "Continue the text."
        user, answer = " ".join(words[:cut]), " ".join(words[cut:])
    turns = [("system", system), ("user", user), ("assistant", answer)]
    return "".join(f"{TURN}{role}\n{text}{END_OF_TURN}\n" for role, text in turns)


def epoch_tokens(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], rng: random.Random
) -> torch.Tensor:
    """One epoch as a stream of shape (tokens,): every document plain and as a chat, shuffled."""
    titles = [document.partition("\n")[0] for document in documents]
    texts = [*documents, *(as_chat(document, titles, rng) for document in documents)]
    rng.shuffle(texts)
    encoded = tokenizer.backend_tokenizer.encode_batch_fast([t + END_OF_TEXT for t in texts])
    return torch.tensor([token for text in encoded for token in text.ids], dtype=torch.int32)


def batches(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], epochs: int, size: int, seed: int
) -> Iterator[torch.Tensor]:
    """Batches of shape (size, CONTEXT + 1)."""
    for epoch in range(epochs):
        stream = epoch_tokens(tokenizer, documents, random.Random(f"{seed}-{epoch}"))
        rows = stream[: len(stream) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
        yield from rows[: len(rows) // size * size].view(-1, size, CONTEXT + 1).long()


def loss_of(model: Qwen2ForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats."""
    with torch.autocast(batch.device.type, torch.bfloat16):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def perplexity(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> float:
    """Per-token perplexity over the texts as one stream, in windows of CONTEXT tokens."""
    model.eval()
    device = next(model.parameters()).device
    ids = tokenizer(END_OF_TEXT.join(texts))["input_ids"]
    rows = torch.tensor(ids[: len(ids) // (CONTEXT + 1) * (CONTEXT + 1)]).view(-1, CONTEXT + 1)
    losses = [loss_of(model, row[None].to(device)) for row in rows]
    return math.exp(torch.stack(losses).mean().item())


def optimizers(model: Qwen2ForCausalLM, rate: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024, scaled as in arXiv:2502.16982) for the layers, AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 of 6 M parameters with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2 * CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.update(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def save(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    held_out: list[str],
    **facts: object,
) -> None:
    """Write the model in bf16 with its tokenizer, and `recipe.json` with what was measured."""
    plain = copy.deepcopy(model).to(torch.bfloat16)
    rng = random.Random(0)
    titles = [document.partition("\n")[0] for document in held_out]
    facts |= {
        "parameters": plain.num_parameters(),
        "torch": torch.__version__,
        "held_out_perplexity": round(perplexity(plain, tokenizer, held_out), 2),
        "held_out_perplexity_chat": round(
            perplexity(plain, tokenizer, [as_chat(d, titles, rng) for d in held_out]), 2
        ),
    }
    plain.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--batch", type=int, default=16, help=f"sequences of {CONTEXT} tokens in a step"
    )
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--vocabulary", type=int, default=6144)
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-steps", type=int, help="stop early, the schedule unchanged")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    documents = read_documents()
    random.Random(options.seed).shuffle(documents)
    held_out, documents = documents[:HELD_OUT], documents[HELD_OUT:]
    tokenizer = train_tokenizer(documents, options.vocabulary)
    model = build_model(tokenizer).to(options.device)
    loss_and_graph = torch.compile(loss_of)
    tokens_per_epoch = len(epoch_tokens(tokenizer, documents, random.Random(f"{options.seed}-0")))
    steps_per_epoch = tokens_per_epoch // (CONTEXT + 1) // options.batch
    steps = steps_per_epoch * options.epochs
    steppers = optimizers(model, options.learning_rate, options.weight_decay)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            stepper, lambda step: min(1.0, (step + 1) / 100, 0.01 + 1.4 * (1 - step / steps))
        )
        for stepper in steppers
    ]
    start = time.perf_counter()
    stream = batches(tokenizer, documents, options.epochs, options.batch, options.seed)
    # Epochs differ a little in length, because every one makes other chats; the stream decides.
    for step, batch in enumerate(islice(stream, options.max_steps), 1):
        loss = loss_and_graph(model, batch.to(options.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper, schedule in zip(steppers, schedules, strict=True):
            stepper.step()
            schedule.step()
            stepper.zero_grad(set_to_none=True)
        if step % 100 == 0:
            seconds = time.perf_counter() - start
            rate = step * options.batch * CONTEXT / seconds
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {rate:,.0f} tokens/s", flush=True)
    save(
        model,
        tokenizer,
        options.output,
        held_out,
        steps=step,
        tokens_seen=step * options.batch * CONTEXT,
        seconds=round(time.perf_counter() - start),
        seed=options.seed,
        device=torch.cuda.get_device_name() if options.device == "cuda" else options.device,
    )


if __name__ == "__main__":
    main()
