"""Classification heads: trained by every method, kept by the gate, refused where none is served.

A head starts at random, so what is written must hold all of it: on another start it answers alike.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from adaptery.base_model import open_base
from adaptery.errors import InvalidAdapter
from adaptery.plugins.manager import PluginManager
from adaptery.registry.gate.fit import check_fit
from adaptery.registry.gate.package import build_files, check_package
from adaptery.serving.torch.declaration import read_declaration
from adaptery.trainers.bake import settle
from adaptery.trainers.config import LoraSettings, TrainingConfig
from adaptery.trainers.method import AdapterPlan, BaseRequest, Method
from adaptery.trainers.targets import head_modules, resolve_targets
from adaptery.types import AdapterPackage, BaseIdentity, Manifest
from tests.models import make_tokenizer

METHODS = ("lora", "loraplus", "qlora", "adalora", "rslora", "dora", "pissa", "olora")
LABELS = ("no", "yes", "maybe")
IDS = torch.arange(3, 43).view(4, 10)
IDENTITY = BaseIdentity(id="org/base", digest="0" * 64)


@pytest.fixture(scope="session")
def encoder_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT, saved without a pooler as some sentence encoders are."""
    directory = tmp_path_factory.mktemp("bases") / "bert"
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"initializer_range": 0.2}  # a pooler and layers that tell inputs apart
    config = BertConfig(vocab_size=384, intermediate_size=96, **shape)
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def loaded(method: Method, base: Path, seed: int) -> nn.Module:
    """The base with a fresh head; another seed makes another head."""
    torch.manual_seed(seed)
    model = method.load_base(BaseRequest(base, torch.float32, "cpu", LABELS))
    model.config.pad_token_id = 0
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def trained(method: Method, base: Path) -> PeftModel:
    """A model whose adapter and head were trained for a few steps."""
    model = loaded(method, base, seed=0)
    targets = resolve_targets(model, "auto")
    plan = AdapterPlan(LoraSettings(r=4), targets, 40, 0, "SEQ_CLS", head_modules(model))
    adapted = method.adapt(model, plan)
    optimizer = method.optimizer(adapted, 1e-2, TrainingConfig())
    losses = []
    for step in range(1, 31):
        output = adapted(input_ids=IDS, labels=torch.tensor([0, 1, 2, 1]))
        output.loss.backward()
        losses.append(output.loss.item())
        optimizer.step()
        method.after_step(adapted, step)
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.05
    return adapted


@pytest.mark.parametrize("family", ["decoder", "encoder"])
@pytest.mark.parametrize("name", METHODS)
def test_what_any_method_trained_with_a_head_answers_alike_on_another_start(
    name: str, family: str, tiny_base: Path, encoder_base: Path, tmp_path: Path
) -> None:
    base = tiny_base if family == "decoder" else encoder_base
    method: Method = PluginManager(entry_points=[]).load("training_methods", name)({})
    model = trained(method, base)
    expected = logits(model)
    directory = tmp_path / "adapter"
    directory.mkdir()
    method.bake(model, directory)
    settle(directory, IDENTITY, None)

    config = json.loads((directory / "adapter_config.json").read_text())
    heads = {"score"} if family == "decoder" else {"classifier", "bert.pooler.dense"}
    assert config["task_type"] == "SEQ_CLS"
    assert set(config["modules_to_save"]) == heads
    manifest = Manifest(
        files=build_files(directory), base=IDENTITY, method=name, config={}, packages={}
    )
    check_package(AdapterPackage(directory, manifest))
    check_fit(directory, open_base(str(base)))

    fresh = loaded(method, base, seed=1)
    assert (logits(fresh) - expected).abs().max() > 0.1
    served = PeftModel.from_pretrained(fresh, directory)
    assert (logits(served) - expected).abs().max() < 1e-4


def test_our_engine_refuses_a_head_and_names_the_command_that_uses_it(
    tiny_base: Path, tmp_path: Path
) -> None:
    method: Method = PluginManager(entry_points=[]).load("training_methods", "lora")({})
    method.bake(trained(method, tiny_base), tmp_path)
    with pytest.raises(InvalidAdapter, match=r"classification head.*`adapters eval`"):
        read_declaration(tmp_path)
