"""The life of an adapter, command by command, on the tiny base."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef, Manifest, sha256_of
from tests.cli.conftest import House
from tests.command import adapters, done
from tests.hub_peer import HubPeer


def test_training_publishes_the_next_version_and_the_first_is_live(house: House) -> None:
    versions = done("list", "colours", "--json", *house.at).json
    assert [(v["version"], v["aliases"], v["method"]) for v in versions] == [
        (1, ["live"], "lora"),
        (2, [], "adalora"),
    ]
    assert versions[0]["metrics"].keys() >= {"loss", "macro_f1", "base.loss", "base.macro_f1"}
    assert versions[0]["base"]["id"] == str(house.base)


def test_training_tells_people_what_came_out(bare: House) -> None:
    outcome = done(*bare.train("--eval-data", bare.root / "eval.jsonl"))
    table, story = outcome.out.splitlines(), outcome.err
    assert [line.split()[0] for line in table] == ["held-out", "base", "colours@1"]
    assert "macro_f1" in table[0]
    (run,) = (bare.root / "runs").iterdir()
    assert f"Run directory: {run}" in story
    assert "trainable parameters" in story
    assert "Published colours@1 (sha256:" in story


def test_training_the_same_again_is_the_same_version(house: House) -> None:
    arguments = house.train("--eval-data", house.root / "eval.jsonl", "--json")
    assert done(*arguments).json["version"] == 1
    assert len(done("list", "colours", "--json", *house.at).json) == 2


def test_a_run_need_not_be_published(bare: House) -> None:
    result = done(*bare.train("--no-publish", "--json")).json
    assert "version" not in result
    assert Path(result["adapter"], "adapter_model.safetensors").is_file()
    assert (Path(result["run"]) / "curves.png").is_file()
    assert not bare.registry.exists()


def test_a_list_shows_adapters_and_their_aliases(house: House) -> None:
    done("promote", "colours@2", "--alias", "canary", *house.at)
    lines = done("list", *house.at).out.splitlines()
    assert len(lines) == 2
    for part in ("colours", "2", "live → 1", "canary → 2", "adalora", "macro_f1"):
        assert part in lines[1]


def test_an_empty_registry_says_how_to_begin(bare: House) -> None:
    outcome = done("list", *bare.at)
    assert outcome.out == ""
    assert "adapters train" in outcome.err
    assert done("list", "--json", *bare.at).json == []
    assert not bare.registry.exists()


def test_show_tells_everything_of_a_version(house: House) -> None:
    shown = done("show", "colours@1", "--json", *house.at).json
    assert Manifest.model_validate(shown["manifest"]).digest == shown["digest"][len("sha256:") :]
    assert shown["manifest"]["probe"]
    text = done("show", "colours", *house.at).out
    for part in ("colours@1", shown["digest"], "live", "lora", "metric macro_f1", "peft", "probe"):
        assert part in text


@pytest.mark.parametrize("ref", ["colours", "colours@1", "colours@v1", "colours@live", "digest"])
def test_a_version_is_found_by_every_kind_of_reference(house: House, ref: str) -> None:
    version = LocalRegistry.open(str(house.registry)).resolve(AdapterRef("colours", number=1))
    wanted = f"colours@sha256:{version.digest[:8]}" if ref == "digest" else ref
    assert done("show", wanted, "--json", *house.at).json["version"] == 1


def test_names_move_and_the_history_keeps_every_move(house: House) -> None:
    moved = done("promote", "colours@latest", "--reason", "better", "--json", *house.at).json
    assert (moved["number"], moved["previous"], moved["alias"]) == (2, 1, "live")
    assert done("show", "colours", "--json", *house.at).json["version"] == 2
    assert done("rollback", "colours", *house.at).out == (
        "colours@live now means colours@1 (before: 2).\n"
    )
    assert done("show", "colours", "--json", *house.at).json["version"] == 1
    events = done("history", "colours", "--json", *house.at).json
    assert [(event["kind"], event["number"], event["reason"]) for event in events[-2:]] == [
        ("promoted", 2, "better"),
        ("rolled back", 1, ""),
    ]
    text = done("history", "colours", *house.at).out
    assert "a beginning" in text
    assert "live: 1 → 2" in text


def test_a_promotion_may_insist_on_what_was_there(house: House) -> None:
    refused = adapters("promote", "colours@2", "--expect", 2, *house.at)
    assert refused.code == 1
    assert "live" in refused.err
    done("promote", "colours@2", "--expect", 1, *house.at)
    done("rollback", "colours", "--to", 1, *house.at)


def answers(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(3, 43).view(2, 20)).logits


def adapted(house: House, number: int) -> PeftModel:
    """Base and adapter apart, by transformers and PEFT."""
    registry = LocalRegistry.open(str(house.registry))
    version = registry.resolve(AdapterRef("colours", number=number))
    base = AutoModelForCausalLM.from_pretrained(house.base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, registry.materialize(version)).eval()


@pytest.mark.parametrize("number", [1, 2])
def test_a_merged_model_says_what_base_and_adapter_say(
    house: House, tmp_path: Path, number: int
) -> None:
    output = tmp_path / "new" / "merged"
    told = done("merge", f"colours@{number}", "--output", output, "--json", *house.at).json
    assert told["version"] == f"colours@{number}"
    assert told["same_first_token"] == told["prompts"] > 0
    merged = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    assert (answers(merged) - answers(adapted(house, number))).abs().max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert not list(output.parent.glob(".*"))


def test_export_by_name_is_merge(house: House, tmp_path: Path) -> None:
    for output, command in (
        (tmp_path / "a", ["merge"]),
        (tmp_path / "b", ["export", "--to", "merged"]),
    ):
        done(*command, "colours@1", "--output", output, *house.at)
    digests = [
        {path.name: sha256_of(path.read_bytes()) for path in (tmp_path / name).iterdir()}
        for name in "ab"
    ]
    assert digests[0] == digests[1]


def test_chat_answers_as_the_trained_model_does(house: House) -> None:
    said = done("chat", "colours@2", "--prompt", "the sky 7", "--max-tokens", 8, *house.at).out
    tokenizer = AutoTokenizer.from_pretrained(house.base)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the sky 7"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    out = adapted(house, 2).generate(input_ids=prompt, max_new_tokens=8, do_sample=False)
    expected = tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
    assert said == expected + "\n"


def test_a_version_goes_to_the_hub_and_comes_back_with_its_digest(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))
    with HubPeer(tmp_path / "peer") as peer:
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        sent = done("publish", "colours@2", "hf://org/colours", "--json", *house.at).json
        elsewhere = ("--registry", tmp_path / "elsewhere")
        pulled = done("pull", "hf://org/colours@v2", "--json", *elsewhere).json
        listed = done("list", "colours", "--json", "--registry", "hf://org").json
    local = done("show", "colours@2", "--json", *house.at).json
    assert sent["digest"] == pulled["digest"] == local["digest"] == listed[0]["digest"]
    assert pulled["version"] == 2


def test_every_command_that_prints_data_prints_nothing_but_json(house: House) -> None:
    done("promote", "colours@2", *house.at)
    for command in (
        ["methods"],
        ["plugins"],
        ["list"],
        ["list", "colours"],
        ["show", "colours@2"],
        ["history", "colours"],
        ["rollback", "colours"],
    ):
        registry = house.at if command[0] not in ("methods", "plugins") else ()
        assert json.loads(done(*command, "--json", *registry).out)
