"""From `train` to the server: what `eval` says of a row is what the server answers to it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from adaptery.base_model import open_base
from adaptery.registry.local import LocalRegistry
from adaptery.serving.config import ServeConfig
from adaptery.serving.torch.engine import TorchEngine
from tests.cli.conftest import House
from tests.command import done
from tests.serving.running import running_server


@pytest.fixture
def server(pairs: House) -> Iterator[str]:
    config = ServeConfig(base=str(pairs.base), served_name="tiny", device="cpu", threads=1)
    engine = TorchEngine(open_base(str(pairs.base)), config, "thread")
    with running_server(engine, LocalRegistry.open(str(pairs.registry)), config) as address:
        yield address


def rows_of(house: House) -> list[dict]:
    return [json.loads(line) for line in (house.root / "test.jsonl").read_text().splitlines()]


def evaluated(house: House, tmp_path: Path) -> list[dict]:
    """`adapters eval`, row by row."""
    output = tmp_path / "rows.jsonl"
    done("eval", "words", "--data", house.root / "test.jsonl", "--output", output, *house.at)
    return [json.loads(line) for line in output.read_text().splitlines()]


def served(server: str, house: House) -> dict:
    inputs = [[row["text1"], row["text2"]] for row in rows_of(house)]
    response = httpx.post(f"{server}/v1/classify", json={"model": "words", "input": inputs})
    assert response.status_code == 200, response.text
    return response.json()


def require_same(reply: dict, rows: list[dict]) -> None:
    for one, row in zip(reply["data"], rows, strict=True):
        assert one["label"] == row["answer"]
        expected = {label: math.exp(score) for label, score in row["scores"].items()}
        assert one["probabilities"] == pytest.approx(expected, abs=1e-4)


def test_the_server_answers_as_eval_does_before_and_after_calibration(
    pairs: House, server: str, tmp_path: Path
) -> None:
    before = served(server, pairs)
    require_same(before, evaluated(pairs, tmp_path))
    done("tag", "words", "calibration.offsets=[0.0, 9.0]", *pairs.at)
    after = served(server, pairs)
    require_same(after, evaluated(pairs, tmp_path))
    assert (before["offsets"], after["offsets"]) == (None, {"0": 0.0, "1": 9.0})
    assert {one["label"] for one in after["data"]} == {"1"} != {o["label"] for o in before["data"]}


def test_a_chat_with_the_version_gets_the_label_word_and_an_end(pairs: House, server: str) -> None:
    """After enough steps; asked in the words of the training."""
    words = ("--task", "pair", "--set", "task.words={'0': a, '1': b}", "--name", "longer")
    done(*pairs.train(*words, "--max-steps", 60))
    task = done("show", "longer", "--json", *pairs.at).json["manifest"]["config"]["task"]
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    for row in rows_of(pairs)[:6]:
        inputs = [row["text1"], row["text2"]]
        body = {"model": "longer", "input": inputs}
        (told,) = httpx.post(f"{server}/v1/classify", json=body).json()["data"]
        answer = client.chat.completions.create(
            model="longer",
            temperature=0,
            max_tokens=4,
            messages=[
                {"role": "system", "content": task["instruction"]},
                {"role": "user", "content": "Text 1: {}\nText 2: {}".format(*inputs)},
            ],
        )
        assert answer.choices[0].message.content == task["words"][told["label"]]
        assert answer.choices[0].finish_reason == "stop"
