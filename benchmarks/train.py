"""Training beside its peers: speed, memory, and the loss after equal numbers of tokens.

    python -m benchmarks.train

Each contender trains in a process of its own, one after another, in turns; all on the same rows in
the same order, with the same adapter, optimizer, rate, seed and threads. What counts for speed is
the median step, so that another process' work does not decide. Prints Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent.parent
TINY = HERE / "examples" / "tiny-base"
SHARED = HERE.parent / "shared" / "data" / "sections"
WARM_UP = 3  # steps that do not count: code is made for new shapes
TRAINER, TRL, OURS = 1.5, 1.1, "adaptery"  # the bars, in times the peer's speed
# As the notes do it, and at its best; TRL in packs of several lengths, and in none.
PEERS = ("trainer-256", "trainer", "trl-256-1", "trl-512-1", "trl")
SAYS = {
    OURS: "adaptery",
    "trainer-256": "Trainer + PEFT, padded to 256",
    "trainer": "Trainer + PEFT, rows by length, padded to the longest",
    "trl-256-1": "SFTTrainer, packs of 256",
    "trl-512-1": "SFTTrainer, packs of 512",
    "trl": "SFTTrainer, rows by length, no packs",
}


@dataclass(frozen=True)
class Race:
    """A base and how it is trained on."""

    title: str
    rows: int
    steps: int
    held_out: int
    points: int
    batch_tokens: int
    """At most so many in a micro-batch of adaptery; TRL's hold one pack."""


RACES = {
    "tiny": Race("the shipped base, 6 M parameters", 16, 60, 128, 3, 4096),
    "half-billion": Race("a random Qwen2 of 0.36 billion parameters", 8, 10, 16, 2, 512),
}


@dataclass(frozen=True)
class Run:
    """What one process measured."""

    steps: list[tuple[int, int, float, float]]
    """Of each its tokens, learned tokens, seconds, and processor seconds."""
    curve: list[tuple[int, float]]
    peak_bytes: int


@dataclass(frozen=True)
class Score:
    """A contender's, over all its runs."""

    tokens: float
    """Through the model each second; a row's every token, padding and filling not."""
    learned: float
    peak_bytes: int
    curve: list[tuple[int, float]]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Score":
        steps = [step for run in runs for step in run.steps[WARM_UP:]]
        return cls(
            tokens=statistics.median(tokens / seconds for tokens, _, seconds, _ in steps),
            learned=statistics.median(learned / seconds for _, learned, seconds, _ in steps),
            peak_bytes=max(run.peak_bytes for run in runs),
            curve=runs[0].curve,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--races", nargs="+", choices=RACES, default=list(RACES))
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    for name in options.races:
        with tempfile.TemporaryDirectory() as folder:
            base = TINY if name == "tiny" else write_random_base(Path(folder) / "base")
            data = write_rows(Path(folder), RACES[name])
            runs: dict[str, list[Run]] = {who: [] for who in (OURS, *options.peers)}
            for _ in range(options.turns):
                for who, done in runs.items():
                    done.append(run(who, base, data, RACES[name]))
                    print(f"{name} {who} {Score.of(done).tokens:.0f}", file=sys.stderr)
        scores = {who: Score.of(done) for who, done in runs.items()}
        print("\n".join(report(RACES[name], scores)), flush=True)


def run(who: str, base: Path, data: tuple[Path, Path], race: Race) -> Run:
    """One contender's training in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_peers", who, "--base", str(base)]
    command += ["--train", str(data[0]), "--held-out", str(data[1]), "--rows", str(race.rows)]
    command += ["--steps", str(race.steps), "--points", str(race.points)]
    command += ["--batch-tokens", str(race.batch_tokens)]
    threads = str(len(os.sched_getaffinity(0)))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr}")
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def write_rows(folder: Path, race: Race) -> tuple[Path, Path]:
    """As many rows of the sections data as are trained on, and the first held-out ones."""
    source, held_out = (
        (SHARED, "test") if SHARED.exists() else (HERE / "examples" / "sections", "heldout")
    )
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    counts = race.rows * race.steps, race.held_out
    for path, name, count in zip(paths, ("train", held_out), counts, strict=True):
        lines = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:count]), encoding="utf-8")
    return paths


def write_random_base(folder: Path) -> Path:
    """A random model of Qwen2.5-0.5B's shape, its vocabulary 32,000, with the tiny tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = Qwen2Config(
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        vocab_size=32_000,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def report(race: Race, scores: dict[str, Score]) -> list[str]:
    """A race's two tables: speed and memory, and the curves; the bars between them."""
    ours = scores[OURS]
    lines = [
        f"### {race.title}: {race.rows} rows in a step, {race.steps} steps",
        "",
        "| trainer | tokens/s | learned tokens/s | peak memory | adaptery is |",
        "|---|---|---|---|---|",
    ]
    for who, score in scores.items():
        times = "" if who == OURS else f"{ours.tokens / score.tokens:.2f} × as fast"
        lines.append(
            f"| {SAYS.get(who, who)} | {score.tokens:,.0f} | {score.learned:,.0f} "
            f"| {score.peak_bytes / 1e9:.2f} GB | {times} |"
        )
    return [*lines, "", *bars(scores), "", *curves(scores), ""]


def bars(scores: dict[str, Score]) -> list[str]:
    """What issue 4 asks for, and whether it is so."""
    ours, peers = scores[OURS], {who: s for who, s in scores.items() if who != OURS}
    lines = []
    for start, bar in (("trainer-", TRAINER), ("trl", TRL)):
        rivals = [score.tokens for who, score in peers.items() if who.startswith(start)]
        if rivals:
            times = ours.tokens / max(rivals)
            what = "Trainer as in the notes" if bar == TRAINER else "SFTTrainer at its best"
            lines.append(f"- {times:.2f} × {what}; bar {bar}: {verdict(times >= bar)}")
    least = min((score.peak_bytes for score in peers.values()), default=ours.peak_bytes)
    share = ours.peak_bytes / least
    lines.append(f"- {share:.2f} × the least peak memory of a peer; bar 1: {verdict(share <= 1)}")
    return lines


def verdict(ok: bool) -> str:
    return "met" if ok else "missed"


def curves(scores: dict[str, Score]) -> list[str]:
    """The loss on the same held-out rows (nats per learned token) after so many tokens."""
    points = min(len(score.curve) for score in scores.values())
    lines = [
        "| held-out loss after … tokens | " + " | ".join(SAYS.get(w, w) for w in scores) + " |"
    ]
    lines.append("|---|" + "---|" * len(scores))
    for point in range(points):
        losses = [f"{s.curve[point][1]:.3f} ({s.curve[point][0]:,})" for s in scores.values()]
        lines.append(f"| {point} of {points - 1} | " + " | ".join(losses) + " |")
    return lines


if __name__ == "__main__":
    main()
