"""One trainer at work in a process of its own; prints what it measured as JSON.

Started by `benchmarks.train`. All contenders get the same base, rows in the same order, adapter,
optimizer, rate, seed and threads; they differ in how they put rows through the model.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptery.config import Layer, Resolved, resolve
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.batches import pad
from adaptery.trainers.config import RunConfig
from adaptery.trainers.encoding import IGNORED, Example
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.steps import steps_of
from adaptery.trainers.watching import Silent
from adaptery.trainers.work import Parts, Work

RATE, RANK = 1e-3, 16


@dataclass
class Clock:
    """Steps of a run, and the loss on held-out rows after so many tokens."""

    model: Any
    held_out: Sequence[Example]
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


def held_out_loss(model: Any, rows: Sequence[Example]) -> float:
    """Nats per learned token, by the plain model, padded, in bf16: the same for all contenders."""
    training = model.training
    model.eval()
    losses: list[torch.Tensor] = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(rows), 8):
            batch = pad([(row.ids, row.labels) for row in rows[start : start + 8]], 0)
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


def configuration(options: argparse.Namespace, folder: Path) -> Resolved[RunConfig]:
    """The run that all contenders do."""
    return resolve(
        RunConfig,
        [
            Layer.of(
                {
                    "name": "benchmark",
                    "base": options.base,
                    "data.train": options.train,
                    "data.eval": options.held_out,
                    "lora.r": RANK,
                    "lora.alpha": 2 * RANK,
                    "training.batch_size": options.rows,
                    "training.batch_tokens": options.batch_tokens,
                    "training.max_steps": options.steps,
                    "training.epochs": 100,
                    "training.learning_rate": RATE,
                    "training.scheduler": "constant",
                    "training.warmup": 0.0,
                    "training.precision": "bf16",
                    "training.checkpoint_every": 10_000,
                    "runs": str(folder),
                },
                "benchmark",
            )
        ],
    )


def gather(config: RunConfig) -> Work:
    """Rows, tokenizer and method, as `adapters train` finds them."""
    plugins = PluginManager(entry_points=[])
    method = plugins.load("training_methods", config.method)(config.options)
    formats = {name: plugins.load("data_formats", name) for name in ("messages",)}
    metrics = {name: plugins.load("metrics", name) for name in ("accuracy", "macro_f1")}
    return Work.gather(config, Parts(method, formats, metrics), Silent())


def load_model(base: str) -> Any:
    """The base with a fresh LoRA adapter on all its linear layers, as PEFT makes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.requires_grad_(False)
    model.config.use_cache = False
    adapter = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapter)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Ticking(Silent):
    """Tells the clock of every optimizer step of `adapters train`."""

    def __init__(self, clock: Clock, steps: list[list[Example]]) -> None:
        self.clock, self.steps = clock, iter(steps)

    def phase(self, title: str, total: int) -> None:
        if title == "training":
            self.clock.start()

    def advance(self, pieces: int = 1, **figures: float) -> None:
        if figures:
            rows = next(self.steps)
            self.clock.count(sum(len(row.ids) for row in rows), sum(row.learned for row in rows))
            self.clock.end_step()


def train_adaptery(work: Work, config: Resolved[RunConfig], every: int) -> Clock:
    """The very path of `adapters train`, less what comes before and after the steps."""
    model = work.adapt(work.prepare())
    if not work.task.forward.packed:
        raise SystemExit("This base's rows are not packed.")
    steps = list(steps_of(work.examples, config.value.training, work.steps))
    clock = Clock(model, work.tests, every)
    ticking = dataclasses.replace(work, watcher=Ticking(clock, steps))
    ticking.fit(model, RunDirectory.create(config), resume=False)
    return clock


def train_peer(name: str, work: Work, options: argparse.Namespace, every: int) -> Clock:
    """transformers' Trainer, or TRL's SFTTrainer, on the rows in adaptery's order."""
    from datasets import Dataset
    from transformers import TrainerCallback, logging

    logging.set_verbosity_error()
    steps = list(steps_of(work.examples, work.settings.training, work.steps))
    rows = [row for step in steps for row in step]
    data = Dataset.from_dict(
        {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
    )
    model = load_model(options.base)
    clock = Clock(model, work.tests, every)

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end_step()

    make = make_trl if name.startswith("trl") else make_trainer
    trainer = make(name, model, work.base.tokenizer, data, options)
    trainer.add_callback(Ticks())
    compute = trainer.compute_loss

    def counted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        learned = int((inputs["labels"] != IGNORED).sum())
        clock.count(inputs["input_ids"].numel() if mask is None else int(mask.sum()), learned)
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    trainer.train()
    return clock


def common_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What Trainer and SFTTrainer are told alike."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": options.steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": True,
        "use_cpu": True,
        "seed": 0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",  # rows stand by length already
    }


def make_trainer(
    name: str, model: Any, tokenizer: Any, data: Any, options: argparse.Namespace
) -> Any:
    """`trainer-LENGTH`: padded to that length, as in the notes; `trainer`: to the longest row."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    _, _, length = name.partition("-")
    arguments = TrainingArguments(
        per_device_train_batch_size=options.rows, **common_arguments(options)
    )
    collator = DataCollatorForSeq2Seq(
        tokenizer,
        padding="max_length" if length else "longest",
        max_length=int(length) if length else None,
    )
    return Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)


def make_trl(name: str, model: Any, tokenizer: Any, data: Any, options: argparse.Namespace) -> Any:
    """`trl-LENGTH-PACKS`: so many packs of that length in a micro-batch; `trl`: padded rows.

    Its own loss leaves out what is not learned and makes no full logits. bf16 is its default. Packs
    of one micro-batch become a single sequence with a mask of (tokens, tokens) on a CPU, so small
    micro-batches are its fastest.
    """
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    length, packs = map(int, name.split("-")[1:]) if "-" in name else (0, options.rows)
    mean = statistics.mean(len(ids) for ids in data["input_ids"])
    micro_batches = max(1, round(mean * options.rows / (length * packs))) if length else 1
    arguments = SFTConfig(
        packing=bool(length),
        max_length=length or None,
        per_device_train_batch_size=packs,
        gradient_accumulation_steps=micro_batches,
        **common_arguments(options),
    )
    return SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)


def measure(options: argparse.Namespace) -> Clock:
    """Train as one of the contenders does."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(options, Path(folder))
        work = gather(config.value)
        steps = steps_of(work.examples, config.value.training, work.steps)
        every = sum(len(row.ids) for step in steps for row in step) // options.points
        if options.contender == "adaptery":
            return train_adaptery(work, config, every)
        return train_peer(options.contender, work, options, every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("contender")
    parser.add_argument("--base", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--rows", type=int, required=True, help="in one optimizer step")
    parser.add_argument("--batch-tokens", type=int, required=True, help="of adaptery")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--points", type=int, required=True, help="of the loss, after the first")
    clock = measure(parser.parse_args())
    print(json.dumps({"steps": clock.steps, "curve": clock.curve, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
