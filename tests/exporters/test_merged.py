import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptery.base_model import open_base
from adaptery.errors import InvalidAdapter, UsageError, VerificationError
from adaptery.exporters import merged
from adaptery.exporters.base import ExportJob
from adaptery.exporters.merged import export_merged
from adaptery.types import Manifest, ProbePrompt, TokenScore, Version
from tests.models import write_tiny_base

IDS = torch.arange(3, 43).view(2, 20)
MakeJob = Callable[..., ExportJob]


def write_adapter(directory: Path, base: Path, **config: Any) -> Path:
    """A random adapter, written by PEFT, that changes the base's answers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **config}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(directory)
    return directory


@pytest.fixture
def job(tiny_base: Path, tmp_path: Path) -> MakeJob:
    """Makes a job of an adapter with that configuration."""

    def make(
        base: Path = tiny_base,
        dtype: str = "base",
        probe: tuple[ProbePrompt, ...] = (),
        **config: Any,
    ) -> ExportJob:
        found = open_base(str(base))
        adapter = write_adapter(tmp_path / "adapter", base, **config)
        manifest = Manifest(files=(), base=found.identity, method="lora", probe=probe)
        version = Version("a", 1, manifest, manifest.digest, datetime.now(UTC), "me")
        return ExportJob(version, adapter, found, tmp_path / "out" / "merged", dtype)

    return make


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def apart(job: ExportJob) -> torch.Tensor:
    """What base and adapter apart say, in fp32."""
    base = AutoModelForCausalLM.from_pretrained(job.base.directory, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(base, job.adapter))


def together(job: ExportJob) -> torch.Tensor:
    """What the written model says, in fp32 arithmetic."""
    return logits(AutoModelForCausalLM.from_pretrained(job.output, dtype=torch.float32))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"r": 9, "use_rslora": True},
        {"rank_pattern": {"down_proj": 7}, "alpha_pattern": {"q_proj": 3}},
        {"target_modules": ["q_proj"]},
        {"use_dora": True},
    ],
    ids=["plain", "rslora", "patterns", "one layer", "dora"],
)
def test_the_merged_model_says_what_base_and_adapter_say(
    job: MakeJob, config: dict[str, Any]
) -> None:
    wanted = job(**config)
    export_merged(wanted)
    assert (together(wanted) - apart(wanted)).abs().max() < 1e-4


def test_tied_embeddings_come_back_tied(job: MakeJob) -> None:
    wanted = job()
    export_merged(wanted)
    model = AutoModelForCausalLM.from_pretrained(wanted.output)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_untied_embeddings_come_back_untied(job: MakeJob, tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "untied", tie_word_embeddings=False)
    wanted = job(base, target_modules=["q_proj", "lm_head"])
    export_merged(wanted)
    assert (together(wanted) - apart(wanted)).abs().max() < 1e-4


def test_an_adapter_of_tied_embeddings_is_not_merged_wrongly(job: MakeJob) -> None:
    """transformers#45127: the head's update is lost when the model is loaded again."""
    wanted = job(target_modules=["q_proj", "lm_head"])
    with pytest.raises(VerificationError, match="does not say what a@1 says"):
        export_merged(wanted)
    assert not list(wanted.output.parent.iterdir())


@pytest.mark.parametrize(
    ("dtype", "written"),
    [
        ("base", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_the_number_format_is_the_one_asked_for(
    job: MakeJob, dtype: str, written: torch.dtype
) -> None:
    wanted = job(dtype=dtype)
    figures = export_merged(wanted)
    assert figures["dtype"] == str(written).removeprefix("torch.")
    tensors = load_file(wanted.output / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {written}
    assert json.loads((wanted.output / "config.json").read_text())["dtype"] == figures["dtype"]


def test_a_base_in_bfloat16_is_merged_in_fp32_and_rounded_once(
    job: MakeJob, tiny_base: Path, tmp_path: Path
) -> None:
    small = tmp_path / "bf16"
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    model.save_pretrained(small)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(small)
    wanted = job(small)
    figures = export_merged(wanted)
    assert figures["dtype"] == "bfloat16"
    exact = {n: t.float() for n, t in model.state_dict().items()}
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32), wanted.adapter
    ).merge_and_unload()
    tensors = load_file(wanted.output / "model.safetensors")
    assert tensors.keys() <= exact.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, adapted.state_dict()[name].bfloat16()), name
    assert 0 < figures["largest_difference_nats"] < merged.LIMIT


def test_the_versions_own_probe_is_asked(job: MakeJob) -> None:
    top = (TokenScore(token=3, trained=-0.1, base=-0.2),)
    probe = tuple(ProbePrompt(token_ids=(n, n + 1, n + 2), top=top) for n in (5, 50, 90))
    figures = export_merged(job(probe=probe))
    assert figures["prompts"] == figures["same_first_token"] == 3
    assert figures["largest_difference_nats"] < 1e-3


def test_a_merge_that_lost_the_adapter_is_refused_and_removed(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False
    )
    wanted = job()
    with pytest.raises(VerificationError, match=r"does not say what a@1 says.*Nothing was written"):
        export_merged(wanted)
    assert not list(wanted.output.parent.iterdir())


def test_a_failure_half_way_leaves_nothing(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = job()

    def full(*_: object) -> None:
        assert list(wanted.output.parent.iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merged, "check", full)
    with pytest.raises(OSError, match="No space"):
        export_merged(wanted)
    assert not list(wanted.output.parent.iterdir())


def test_an_interrupted_merge_leaves_nothing(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merged, "check", interrupted)
    wanted = job()
    with pytest.raises(KeyboardInterrupt):
        export_merged(wanted)
    assert not list(wanted.output.parent.iterdir())


def test_what_an_earlier_crash_left_is_no_obstacle(job: MakeJob) -> None:
    wanted = job()
    left = wanted.output.parent / f".{wanted.output.name}.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    export_merged(wanted)
    assert [path.name for path in wanted.output.parent.iterdir()] == ["merged"]
    assert (together(wanted) - apart(wanted)).abs().max() < 1e-4


def test_an_output_that_is_there_is_never_touched(job: MakeJob) -> None:
    wanted = job()
    wanted.output.parent.mkdir()
    wanted.output.write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        export_merged(wanted)
    assert wanted.output.read_text() == "precious"


def drop(adapter: Path, part: str) -> None:
    """Take the tensors whose names contain `part` out of an adapter."""
    path = adapter / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if part not in name}
    save_file(tensors, path, metadata={"format": "pt"})


def test_an_adapter_that_lacks_a_declared_layer_is_refused(job: MakeJob) -> None:
    """PEFT would make one up that does nothing."""
    wanted = job()
    drop(wanted.adapter, "layers.1.mlp")
    with pytest.raises(InvalidAdapter, match=r"layers\.1\.mlp"):
        export_merged(wanted)
    assert not list(wanted.output.parent.iterdir())


def test_an_adapter_with_layers_that_the_base_does_not_have_is_refused(job: MakeJob) -> None:
    """PEFT would drop them."""
    wanted = job()
    path = wanted.adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    extra = {name.replace("layers.1", "layers.7"): t.clone() for name, t in tensors.items()}
    save_file(tensors | extra, path, metadata={"format": "pt"})
    with pytest.raises(InvalidAdapter, match=r"layers\.7"):
        export_merged(wanted)
    assert not list(wanted.output.parent.iterdir())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"target_modules": ["no_such_layer"]}, "no_such_layer"), ({"r": 5}, "mismatch")],
)
def test_an_adapter_of_another_architecture_is_a_sentence(
    job: MakeJob, change: dict[str, Any], complaint: str
) -> None:
    wanted = job()
    path = wanted.adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidAdapter, match=f"a@1 cannot be applied.*{complaint}"):
        export_merged(wanted)


def test_the_adapters_own_template_goes_with_the_model(job: MakeJob) -> None:
    wanted = job()
    (wanted.adapter / "chat_template.jinja").write_text("{{ messages[0].content }} please")
    export_merged(wanted)
    tokenizer = AutoTokenizer.from_pretrained(wanted.output)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "go"}], tokenize=False)
    assert text == "go please"
    assert "please" not in str(wanted.base.tokenizer.chat_template)


def test_the_merged_model_is_a_base_of_its_own(job: MakeJob) -> None:
    wanted = job()
    export_merged(wanted)
    merged_base = open_base(str(wanted.output))
    assert merged_base.identity.digest != wanted.base.identity.digest
    shutil.rmtree(wanted.output)
