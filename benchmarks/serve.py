"""How fast, lean and right `adapters serve` is, beside vLLM and transformers + PEFT on the CPU.

    make bench-serve
    python -m benchmarks.serve --rows own vllm --rounds 5 --work /tmp/bench --json

Serves a random model of Qwen2.5-0.5B's shape in bf16 with random adapters of rank 8 and 16 on all
linear layers (made once, kept in `--work`). Unless a row says otherwise 16 clients each send their
next request when they have their answer: 64 random tokens in, 64 greedy tokens out. Loads that are
compared on one machine are taken in turns, A B C, C B A …; a ratio is the median over the turns,
with the smallest and the largest behind it. Before a server's speed counts its answers are compared
with transformers + PEFT in fp32 (`serving/answers.py`); one that is wrong gets WRONG, not a speed.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.serving import material, rows_latency, rows_resources, rows_speed
from benchmarks.serving.numbers import Score
from benchmarks.serving.rows_speed import Setting

ROOT = Path(__file__).parents[1]
ROWS: Mapping[str, Callable[[Setting], Iterator[Figure]]] = {
    "own": rows_speed.own,
    "vllm": rows_speed.beside_vllm,
    "peft": rows_speed.beside_peft,
    "thousand": rows_speed.thousand,
    "first-use": rows_latency.first_use,
    "round-robin": rows_latency.round_robin,
    "long-prompt": rows_latency.long_prompt,
    "start": rows_resources.start,
    "memory": rows_resources.memory,
    "arrivals": rows_speed.arrivals,
    "floor": rows_resources.floor,
}


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers end with us, however we end
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        material.make(work)
        setting = Setting(work, options.rounds, options.requests, options.vllm, {})
        figures: list[Figure] = []
        for name in options.rows:
            print(f"== {name}", file=sys.stderr)
            for figure in ROWS[name](setting):
                print(line(figure), file=sys.stderr)
                figures.append(figure)
        if options.json:
            print(json.dumps(as_json(figures, setting.scores), indent=2, ensure_ascii=False))
        else:
            print("\n".join([machine(), "", *bars(figures), "", *loads(setting.scores)]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of each load")
    parser.add_argument("--requests", type=int, default=64, help="of each load in one turn")
    parser.add_argument("--quick", action="store_true", help="one turn, 16 requests a load")
    parser.add_argument("--work", type=Path, help="keeps model and adapters (default: thrown away)")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm", help="its environment")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests = 1, 16
    if options.rounds < 1 or options.requests < 1:
        parser.error("--rounds and --requests must be at least 1")
    return options


def machine() -> str:
    """The processor, what it is good at, and how busy it was."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    facts = dict(line.split(":", 1) for line in text.replace("\t", "").splitlines() if ":" in line)
    flags = facts.get("flags", "").split()
    good_at = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16", "amx_tile") if flag in flags]
    name = facts.get("model name", platform.processor()).strip()
    return (
        f"{name}, family {facts.get('cpu family', '?').strip()}, {len(os.sched_getaffinity(0))} "
        f"cores ({', '.join(good_at) or 'neither AVX-512 nor AMX'}), load average "
        f"{os.getloadavg()[0]:.1f}"
    )


def bars(figures: list[Figure]) -> list[str]:
    """The table of what was asked for."""
    return ["| what | measured | bar | |", "|---|---|---|---|", *map(line, figures)]


def line(figure: Figure) -> str:
    mark = "" if figure.ok is None else "met" if figure.ok else "MISSED"
    return f"| {figure.what} | {figure.measured} | {figure.bar} | {mark} |"


def loads(scores: Mapping[str, Score]) -> list[str]:
    """The table of all loads; times are median / 99th percentile."""
    lines = ["| load | tokens/s | first token | each token | requests | failed |", "|---" * 6 + "|"]
    return lines + [f"| {name} | {' | '.join(s.cells())} |" for name, s in scores.items()]


def as_json(figures: list[Figure], scores: Mapping[str, Score]) -> dict[str, object]:
    return {
        "machine": machine(),
        "figures": [asdict(figure) for figure in figures],
        "loads": {name: asdict(score) for name, score in scores.items()},
    }


if __name__ == "__main__":
    main()
