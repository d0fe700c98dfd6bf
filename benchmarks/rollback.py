"""Rollbacks under a steady load, and the mixed batch against truth; both on a running server.

    python -m benchmarks.rollback --base examples/tiny-base --registry DIR --adapter sections

`DIR` holds at least two versions of the adapter. The first part alternates `adapters promote` and
`adapters rollback` in other processes while clients ask `sections` and `sections@1`, and reports
failures and how long after the command's return the first answer of the older version came. The
second asks both versions and the base at once and compares every greedy answer with transformers +
PEFT asked one by one, in fp32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import httpx

from examples.quickstart import answers, free_port, wait_until

ADAPTERS = str(Path(sys.executable).parent / "adapters")
Row = list[dict[str, str]]


@dataclass
class Log:
    """Every answer of the load: model asked, version that answered (None: failed), times."""

    entries: list[tuple[str, str | None, float, float]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def add(self, model: str, version: str | None, sent: float, answered: float) -> None:
        with self.lock:
            self.entries.append((model, version, sent, answered))


@contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    """The URL of an `adapters serve`."""
    port = free_port()
    command = [ADAPTERS, "serve", "--base", options.base, "--dtype", "float32"]
    where = ["--port", str(port), "--registry", options.registry]
    process = subprocess.Popen([*command, *where])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/ready"), process, "The server")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def ask(client: httpx.Client, model: str, messages: Row) -> httpx.Response:
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16}
    return client.post("/v1/chat/completions", json=body)


def load(url: str, model: str, rows: list[Row], stop: Event, log: Log) -> None:
    """One closed-loop client."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(100_000):
            if stop.is_set():
                return
            sent = time.perf_counter()
            response = ask(client, model, rows[number % len(rows)])
            ok = response.status_code == 200
            version = response.headers["x-adapter-version"] if ok else None
            log.add(model, version, sent, time.perf_counter())


def move(options: argparse.Namespace, *arguments: str) -> float:
    """Run an alias command; when it returned."""
    command = [ADAPTERS, *arguments, "--registry", options.registry]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter()


def rollbacks(url: str, rows: list[Row], options: argparse.Namespace) -> None:
    name, log, stop = options.adapter, Log(), Event()
    move(options, "promote", f"{name}@2")
    first_answers = []
    with ThreadPoolExecutor(options.clients) as pool:
        models = [name, f"{name}@1"] * options.clients
        for number in range(options.clients):
            pool.submit(load, url, models[number], rows, stop, log)
        for _ in range(options.times):
            time.sleep(2)
            returned = move(options, "rollback", name, "--to", "1")
            time.sleep(1)
            with log.lock:
                entries = list(log.entries)
            after = [e for e in entries if e[0] == name and e[2] > returned]
            stale = sum(version != "1" for _, version, _, _ in after)
            if stale:
                raise SystemExit(f"{stale} requests sent after the rollback got the old version")
            new = (e[3] for e in entries if e[0] == name and e[1] == "1" and e[3] > returned)
            first_answers.append(min(new) - returned)
            move(options, "promote", f"{name}@2")
        stop.set()
    failed = sum(version is None for _, version, _, _ in log.entries)
    wrong = sum(e[0] == f"{name}@1" and e[1] != "1" for e in log.entries)
    print(
        f"{options.times} rollbacks, {len(log.entries)} requests by {options.clients} clients to 2 "
        f"models: failed {failed}, wrong version {wrong}; command's return to first answer of the "
        f"older version: median {statistics.median(first_answers) * 1000:.0f} ms, "
        f"worst {max(first_answers) * 1000:.0f} ms"
    )


def parity(url: str, rows: list[Row], options: argparse.Namespace) -> None:
    """Greedy answers of a mixed batch against transformers + PEFT, one by one, in fp32."""
    name = options.adapter
    models = [options.base, f"{name}@1", f"{name}@2"]
    jobs = [(model, row) for row in rows for model in models]
    with (
        ThreadPoolExecutor(12) as pool,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        served = list(pool.map(lambda job: ask(client, *job).json(), jobs))
    got = [reply["choices"][0]["message"]["content"] for reply in served]
    expected = [one_by_one(options, model, rows) for model in models]
    same = dict.fromkeys(models, 0)
    for number, (model, _) in enumerate(jobs):
        same[model] += got[number] == expected[models.index(model)][number // len(models)]
    for model, count in same.items():
        print(f"{model}: {count} of {len(rows)} answers equal transformers + PEFT one by one")


def one_by_one(options: argparse.Namespace, model: str, rows: list[Row]) -> list[str]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adaptery import AdapterRef, open_registry

    tokenizer = AutoTokenizer.from_pretrained(options.base)
    loaded: Any = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    if model != options.base:
        registry = open_registry(options.registry)
        version = registry.resolve(AdapterRef.parse(model))
        loaded = PeftModel.from_pretrained(loaded, registry.materialize(version))
    texts = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            row, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = loaded.generate(**prompt, max_new_tokens=16, do_sample=False)
        new = ids[0, prompt["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="examples/tiny-base")
    parser.add_argument("--rows", default="examples/sections/heldout.jsonl")
    parser.add_argument("--registry", default=os.environ.get("ADAPTERS_REGISTRY"), required=False)
    parser.add_argument("--adapter", default="sections")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--compared", type=int, default=48, help="rows in the mixed batch")
    options = parser.parse_args()
    lines = Path(options.rows).read_text(encoding="utf-8").splitlines()[: options.compared]
    rows: list[Row] = [json.loads(line)["messages"][:-1] for line in lines]
    with server(options) as url:
        rollbacks(url, rows, options)
        parity(url, rows, options)


if __name__ == "__main__":
    main()
