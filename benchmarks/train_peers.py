"""One trainer at work in a process of its own; prints what it measured as JSON.

Started by `benchmarks.train`. All contenders get the same base, rows, adapter, optimizer, rate,
steps of about as many tokens, threads; they differ in how they put rows through the model.
"""

import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptery.trainers.batches import pad
from adaptery.trainers.encoding import IGNORED

HERE = Path(__file__).parent.parent
TINY = HERE / "examples" / "tiny-base"
SHARED = HERE.parent / "shared" / "data" / "sections"
RATE, RANK, SEED = 1e-3, 16, 0
Row = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Setting:
    """A base and how it is trained; `rows` in one optimizer step, `longest` as the notes pad to."""

    rows: int
    longest: int
    steps: int
    held_out: int
    measure_every: int


SETTINGS = {
    "tiny": Setting(rows=16, longest=256, steps=60, held_out=128, measure_every=20),
    "half-billion": Setting(rows=8, longest=256, steps=12, held_out=16, measure_every=4),
}


@dataclass
class Clock:
    """Steps of a run, and the loss on held-out rows after so many tokens."""

    model: Any
    held_out: Sequence[Row]
    every: int
    """Tokens between two measurements of the loss."""
    steps: list[tuple[int, int, float, float]] = field(default_factory=list)
    """Of each step its tokens, learned tokens, seconds, and processor seconds."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    learned: int = 0
    since: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """Training begins; the loss before it is the curve's first point."""
        self.curve.append((0, held_out_loss(self.model, self.held_out)))
        self.since = time.perf_counter(), time.process_time()

    def count(self, tokens: int, learned: int) -> None:
        """A micro-batch with so many tokens, padding and filling left out."""
        self.tokens += tokens
        self.learned += learned

    def end_step(self) -> None:
        """An optimizer step has ended. Measuring the loss does not count as time."""
        tokens = self.tokens - sum(step[0] for step in self.steps)
        learned = self.learned - sum(step[1] for step in self.steps)
        seconds, processor = (
            time.perf_counter() - self.since[0],
            time.process_time() - self.since[1],
        )
        self.steps.append((tokens, learned, seconds, processor))
        if self.tokens >= self.every * len(self.curve):
            self.curve.append((self.tokens, held_out_loss(self.model, self.held_out)))
        self.since = time.perf_counter(), time.process_time()


def held_out_loss(model: Any, rows: Sequence[Row]) -> float:
    """Nats per learned token, by the plain model, padded, in bf16: the same for all contenders."""
    training = model.training
    model.eval()
    losses: list[torch.Tensor] = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(rows), 8):
            batch = pad(rows[start : start + 8], 0)
            labels = batch.labels[:, 1:]
            columns = (labels != IGNORED).any(0).nonzero().flatten()
            logits = model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                logits_to_keep=columns,
            ).logits
            chosen = labels[:, columns] != IGNORED
            losses.append(
                torch.nn.functional.cross_entropy(
                    logits[chosen].float(), labels[:, columns][chosen], reduction="none"
                )
            )
    model.train(training)
    return float(torch.cat(losses).mean())


def load_model(base: str) -> Any:
    """The base with a fresh LoRA adapter on all its linear layers, as PEFT makes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(SEED)
    if base == "tiny":
        model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16)
    else:
        config = Qwen2Config(
            hidden_size=896,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            intermediate_size=4864,
            vocab_size=32_000,
            tie_word_embeddings=True,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False)
    model.config.use_cache = False
    adapter = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapter)


def load_rows(name: str, count: int) -> list[Row]:
    """Rows of the sections data, in the shipped base's template, the answer learned."""
    from transformers import AutoTokenizer

    folder = SHARED if SHARED.exists() else HERE / "examples" / "sections"
    if not (folder / f"{name}.jsonl").exists():
        name = "heldout"
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(SEED).shuffle(lines)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    rows = []
    for line in lines[:count]:
        chat = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(
            chat[:-1], add_generation_prompt=True, return_dict=False
        )
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        rows.append((ids, [IGNORED] * len(prompt) + ids[len(prompt) :]))
    return rows


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def train_adaptery(model: Any, rows: list[Row], setting: Setting, clock: Clock) -> None:
    """Packed rows, fused layers, losses where labels are."""
    from adaptery.trainers.compute import enabling, lora, memory
    from adaptery.trainers.compute.losses import token_losses
    from adaptery.trainers.compute.packing import pack

    memory.keep_freed_memory()
    reason = enabling.enable_packing(model)
    if reason:
        raise SystemExit(reason)
    lora.fuse(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    model.train()
    clock.start()
    for batch in batches(rows, setting):
        packed = pack(batch)
        with torch.autocast("cpu", torch.bfloat16):
            loss = token_losses(model, packed)[0].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.count(sum(len(ids) for ids, _ in batch), packed.layout.learned)
        clock.end_step()


def batches(rows: list[Row], setting: Setting) -> Iterator[list[Row]]:
    """So many rows for each step, at random, as the others draw them."""
    for start in range(0, setting.rows * setting.steps, setting.rows):
        yield rows[start : start + setting.rows]


def train_peer(name: str, model: Any, rows: list[Row], setting: Setting, clock: Clock) -> None:
    """transformers' Trainer, or TRL's SFTTrainer."""
    from datasets import Dataset
    from transformers import TrainerCallback, logging

    logging.set_verbosity_error()

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end_step()

    data = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    )
    make = make_trl if name.startswith("trl") else make_trainer
    trainer = make(name, model, data, setting)
    trainer.add_callback(Ticks())
    compute = trainer.compute_loss

    def counted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        learned = int((inputs["labels"] != IGNORED).sum())
        clock.count(inputs["input_ids"].numel() if mask is None else int(mask.sum()), learned)
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    trainer.train()


def common_arguments(setting: Setting) -> dict[str, Any]:
    """What Trainer and SFTTrainer are told alike."""
    return {
        "output_dir": "/tmp/adaptery-benchmark",
        "max_steps": setting.steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": True,
        "use_cpu": True,
        "seed": SEED,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }


def make_trainer(name: str, model: Any, data: Any, setting: Setting) -> Any:
    """`trainer`: padded to a fixed length, as in the notes; `trainer-dynamic`: at its best."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    dynamic = name == "trainer-dynamic"
    arguments = TrainingArguments(
        per_device_train_batch_size=setting.rows,
        train_sampling_strategy="group_by_length" if dynamic else "random",
        **common_arguments(setting),
    )
    collator = DataCollatorForSeq2Seq(
        AutoTokenizer.from_pretrained(TINY),
        padding="longest" if dynamic else "max_length",
        max_length=setting.longest,
    )
    return Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)


def make_trl(name: str, model: Any, data: Any, setting: Setting) -> Any:
    """`trl-LENGTH-ROWS`: packs of that length, so many in a micro-batch; `trl-free`: no packs."""
    from transformers import AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    free = name == "trl-free"
    length, rows = (None, setting.rows) if free else map(int, name.split("-")[1:])
    mean = statistics.mean(len(ids) for ids in data["input_ids"])
    micro_batches = max(1, round(mean * setting.rows / (length * rows))) if length else 1
    arguments = SFTConfig(
        packing=not free,
        padding_free=free,
        max_length=length,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=micro_batches,
        **common_arguments(setting),
    )
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    return SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("contender")
    parser.add_argument("base", choices=SETTINGS)
    options = parser.parse_args()
    setting = SETTINGS[options.base]
    rows = load_rows("train", setting.rows * setting.steps * 2)
    every = setting.measure_every * setting.rows * statistics.mean(len(ids) for ids, _ in rows)
    model = load_model(options.base)
    clock = Clock(model, load_rows("test", setting.held_out), int(every))
    if options.contender == "adaptery":
        train_adaptery(model, rows, setting, clock)
    else:
        train_peer(options.contender, model, rows, setting, clock)
    result = {"steps": clock.steps, "curve": clock.curve, "peak_bytes": peak_bytes()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
