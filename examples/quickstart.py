"""The main job on real data, as a story: `make quickstart` runs it.

Train two versions, look at their scores, promote, serve, ask by name, roll back while requests keep
flowing, merge, publish, pull. Everything happens in a temporary folder that is removed at the end.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx
from openai import OpenAI, OpenAIError
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parent
BASE = "examples/tiny-base"
TRAIN, HELD_OUT = "examples/sections/train.jsonl", "examples/sections/heldout.jsonl"
ADAPTERS = str(Path(sys.executable).parent / "adapters")
STREAMS = 4  # clients that ask while the rollback happens
COMPARED = 32  # held-out rows on which the merged model must say the same

console = Console(highlight=False, soft_wrap=True)
progress = Console(stderr=True)


class Failed(Exception):
    """A step of the story did not end as it must."""


@dataclass
class Story:
    """The environment that every command of the story runs in."""

    folder: Path
    environment: dict[str, str]
    chapter: int = 0
    started: float = field(default_factory=time.perf_counter)

    def tell(self, title: str) -> None:
        self.chapter += 1
        seconds = time.perf_counter() - self.started
        console.print(f"\n[bold]{self.chapter}. {title}[/bold]  [dim]({seconds:.0f} s)[/dim]")

    def run(self, *arguments: str) -> str:
        """Run `adapters …` as a user would: shown first, its progress on the terminal."""
        console.print(f"[dim]$ adapters {' '.join(arguments)}[/dim]", markup=True)
        return self.ask(*arguments, show=True)

    def ask(self, *arguments: str, show: bool = False) -> str:
        """Run `adapters …` and return what it printed."""
        done = subprocess.run(
            [ADAPTERS, *arguments],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failed(f"`adapters {' '.join(arguments)}` ended with code {done.returncode}.")
        if show and done.stdout:
            console.print(done.stdout.rstrip(), markup=False)
        return done.stdout

    def data(self, *arguments: str) -> Any:
        """What `adapters … --json` prints."""
        return json.loads(self.ask(*arguments, "--json"))


METRICS = ("accuracy", "macro_f1", "loss")


def train(story: Story) -> None:
    story.tell("Train two versions of `sections`: LoRA, then QLoRA on a 4-bit base")
    common = ["train", "--name", "sections", "--base", BASE, "--data", TRAIN]
    common += ["--eval-data", HELD_OUT, "--preset", "tiny", "--epochs", "1"]
    common += ["--runs", str(story.folder / "runs")]
    story.run(*common, "--method", "lora")
    # The untuned base has been measured by now.
    story.run(*common, "--method", "qlora", "--set", "evaluation.baseline=false")


def compare(story: Story) -> None:
    story.tell("What did training bring? Accuracy on 200 held-out rows, eight classes")
    versions = story.data("list", "sections")
    table = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("", "method", "accuracy", "macro-F1", "loss"):
        table.add_column(column, justify="left" if column in ("", "method") else "right")
    first = versions[0]["metrics"]
    base = {name: first[f"base.{name}"] for name in METRICS}
    rows = [("base alone", "none", base)]
    rows += [(f"sections@{v['version']}", v["method"], v["metrics"]) for v in versions]
    for name, method, metrics in rows:
        table.add_row(name, method, *(f"{metrics[metric]:.3f}" for metric in METRICS))
    console.print(table)
    for version in versions:
        if version["metrics"]["accuracy"] <= base["accuracy"]:
            raise Failed(f"Version {version['version']} is no better than the untuned base.")


def promote(story: Story) -> None:
    story.tell("Promote version 2: a bare `sections` now means it")
    story.run("promote", "sections@2", "--reason", "smaller base in memory, as accurate")


@contextmanager
def server(story: Story) -> Iterator[str]:
    """The URL of a running `adapters serve`."""
    story.tell("Serve the base with all its adapters")
    port = free_port()
    command = ["serve", "--base", BASE, "--engine", "torch", "--port", str(port)]
    console.print(f"[dim]$ adapters {' '.join(command)} &[/dim]")
    log = (story.folder / "server.log").open("w")
    process = subprocess.Popen(
        [ADAPTERS, *command], env=story.environment, cwd=ROOT, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with progress.status("loading the base …"):
            wait_until(lambda: answers(f"{url}/ready"), process, "The server")
        yield url
    except BaseException:
        console.print((story.folder / "server.log").read_text()[-3000:], markup=False)
        raise
    finally:
        process.terminate()
        process.wait(30)


def ask_by_name(url: str, rows: list[dict[str, Any]]) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    row = rows[0]
    console.print(
        f"[dim]question:[/dim] {row['question'][:90]}…  [dim](true: {row['answer']})[/dim]"
    )
    for model in ("sections", "sections@1", "sections@2"):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=row["messages"], temperature=0, max_tokens=8
        )
        text = raw.parse().choices[0].message.content
        headers = raw.headers
        console.print(
            f"  model={model:<11} → {text:<9} [dim]answered by version "
            f"{headers['x-adapter-version']}, {headers['x-adapter-digest'][:19]}…[/dim]"
        )


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent and answered, and which version answered, or None."""

    sent: float
    answered: float
    version: str | None


def roll_back_under_load(story: Story, url: str, rows: list[dict[str, Any]]) -> None:
    story.tell(f"Roll back while {STREAMS} clients keep asking `sections`")
    stop = Event()
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(keep_asking, url, rows[i::STREAMS], stop) for i in range(STREAMS)]
        try:
            time.sleep(3)
            story.run("rollback", "sections", "--reason", "quickstart")
            returned = time.perf_counter()
            time.sleep(3)
        finally:
            stop.set()
        asked = [request for stream in streams for request in stream.result()]
    failed = sum(request.version is None for request in asked)
    later = Counter(request.version for request in asked if request.sent > returned)
    old = [request.answered for request in asked if request.version == "1"]
    counts = Counter(request.version for request in asked)
    console.print(f"requests: {len(asked)}, failed: {failed}")
    console.print(f"answered by version 2: {counts['2']}, by version 1: {counts['1']}")
    if failed or not counts["2"] or set(later) != {"1"}:
        raise Failed(f"After the rollback returned, answers came from {dict(later)}.")
    first = max(0.0, min(at for at in old if at > returned) - returned)
    console.print(
        f"every request sent after the command returned was answered by version 1; "
        f"the first such answer came {first * 1000:.0f} ms after it"
    )


def keep_asking(url: str, rows: list[dict[str, Any]], stop: Event) -> list[Asked]:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    asked = []
    while not stop.is_set():
        row = rows[len(asked) % len(rows)]
        sent = time.perf_counter()
        try:
            raw = client.chat.completions.with_raw_response.create(
                model="sections", messages=row["messages"], temperature=0, max_tokens=8
            )
            version = raw.headers["x-adapter-version"]
        except OpenAIError as error:
            console.print(f"[red]{error}[/red]")
            version = None
        asked.append(Asked(sent, time.perf_counter(), version))
    return asked


def merge(story: Story, url: str, rows: list[dict[str, Any]]) -> None:
    story.tell("Merge version 1 into a plain model and ask both the same")
    merged = story.folder / "merged"
    story.run("merge", "sections@1", "--output", str(merged), "--dtype", "float32")
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    same = 0
    for row, answer in zip(rows, greedy_answers(merged, rows), strict=True):
        completion = client.chat.completions.create(
            model="sections@1", messages=row["messages"], temperature=0, max_tokens=8
        )
        same += completion.choices[0].message.content == answer
    console.print(
        f"the merged model says the same as the served adapter: {same} of {len(rows)} rows"
    )
    if same < len(rows):
        raise Failed("The merged model must say the same on every row.")


def greedy_answers(model_directory: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    """What transformers alone makes of the merged model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            row["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = model.generate(**prompt, max_new_tokens=8, do_sample=False)
        yield tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def publish_and_pull(story: Story) -> None:
    story.tell("Publish version 2 to a Hub (a small local one) and pull it into a new registry")
    with hub_peer(story) as url:
        story.environment["HF_ENDPOINT"] = url
        story.run("publish", "sections@2", "hf://acme/sections")
        elsewhere = str(story.folder / "elsewhere")
        story.run("pull", "hf://acme/sections@v2", "--registry", elsewhere)
        here = story.data("show", "sections@2")["digest"]
        there = story.data("show", "sections@2", "--registry", elsewhere)["digest"]
    console.print(f"here:  {here}\nthere: {there}")
    if here != there:
        raise Failed("The pulled version is not the published one.")


@contextmanager
def hub_peer(story: Story) -> Iterator[str]:
    """The URL of a Hub peer with a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub_peer", "--root", str(story.folder / "hub")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def held_out_rows(count: int) -> list[dict[str, Any]]:
    """Questions with their true answers."""
    rows = []
    for line in (ROOT / HELD_OUT).read_text(encoding="utf-8").splitlines()[:count]:
        *question, answer = json.loads(line)["messages"]
        rows.append(
            {"messages": question, "question": question[-1]["content"], "answer": answer["content"]}
        )
    return rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[Any], who: str) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"{who} did not start.")
        time.sleep(0.2)


def environment(folder: Path) -> dict[str, str]:
    """Ours alone: nothing of the user's registry or Hub account is touched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ADAPTERS_")}
    return kept | {
        "ADAPTERS_REGISTRY": str(folder / "registry"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_quickstart",
    }


OWN_DATA = """
[bold]The same on your own data[/bold], with a model from the Hub:

  source .venv/bin/activate
  adapters train --name support --base Qwen/Qwen2.5-0.5B-Instruct \\
      --data train.jsonl --eval-data val.jsonl --method qlora --preset small
  adapters promote support@1
  adapters serve --base Qwen/Qwen2.5-0.5B-Instruct --port 8000
  adapters chat support@1
  adapters rollback support
  adapters merge support@1 --output merged/
  adapters publish support@1 hf://YOUR-ORG/support

Rows look like {"messages": [{"role": "user", …}, {"role": "assistant", …}]}, one a line."""


def main() -> int:
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the story has its own
    with tempfile.TemporaryDirectory(prefix="adaptery-quickstart-") as name:
        story = Story(Path(name), environment(Path(name)))
        rows = held_out_rows(COMPARED)
        try:
            train(story)
            compare(story)
            promote(story)
            with server(story) as url:
                ask_by_name(url, rows)
                roll_back_under_load(story, url, rows)
                merge(story, url, rows)
            publish_and_pull(story)
        except Failed as error:
            console.print(f"[bold red]The quickstart failed:[/bold red] {error}")
            return 1
        seconds = time.perf_counter() - story.started
    console.print(
        f"\n[green]All of it worked, in {seconds:.0f} s.[/green] The temporary folder is gone."
    )
    console.print(OWN_DATA, markup=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
