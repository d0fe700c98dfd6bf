"""What each method does that the others do not, seen in a run of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedModel

from adaptery.errors import ConfigError, Interrupted, InvalidAdapter, VerificationError
from adaptery.plugins.builtin.adalora import AdaLora, svd_layers
from adaptery.plugins.builtin.dora import Dora
from adaptery.plugins.builtin.loraplus import LoraPlus
from adaptery.plugins.builtin.olora import OLora
from adaptery.plugins.builtin.pissa import Pissa
from adaptery.plugins.builtin.qlora import QLora
from adaptery.plugins.builtin.rslora import RsLora
from adaptery.serving.torch.declaration import read_declaration
from adaptery.trainers.config import LoraSettings, TrainingConfig
from adaptery.trainers.lora import Lora, lora_layers
from adaptery.trainers.method import AdapterPlan, BaseRequest, Method
from adaptery.trainers.train import TrainingResult
from adaptery.trainers.work import Work
from tests.command import adapters, done
from tests.models import write_rows
from tests.trainers.runs import InterruptAt, resume, rows, run, tensors

METHODS: dict[str, type[Method]] = {
    "lora": Lora,
    "loraplus": LoraPlus,
    "qlora": QLora,
    "adalora": AdaLora,
    "rslora": RsLora,
    "dora": Dora,
    "pissa": Pissa,
    "olora": OLora,
}
NOT_PLAIN = {"dora": ".lora_magnitude_vector"}  # what it has beside A and B
TWICE_THE_RANK = {"pissa", "olora"}
CHANGES: dict[str, dict[str, Any]] = {
    "loraplus": {"training__learning_rate": 5e-4},
    "adalora": {"training__epochs": 6, "training__learning_rate": 2e-2},
}
LAYERS = 14  # linear layers of the tiny base that are adapted
IDS = torch.arange(3, 43).view(2, 20)


def request(base: Path, labels: tuple[str, ...] = ()) -> BaseRequest:
    return BaseRequest(base, torch.float32, "cpu", labels)


@dataclass(frozen=True)
class Trained:
    """A finished run and the model in memory that it ended with, not yet baked."""

    method: str
    result: TrainingResult
    model: PeftModel
    base: Path

    def baked(self) -> PeftModel:
        """What anybody gets who loads the adapter with PEFT, on the base that it was trained on."""
        base = METHODS[self.method]({}).load_base(request(self.base))
        return PeftModel.from_pretrained(base, self.result.adapter).eval()

    def served(self) -> PeftModel:
        """The same on the base as servers hold it, quantized for none of them."""
        base = Lora({}).load_base(request(self.base))
        return PeftModel.from_pretrained(base, self.result.adapter).eval()


@pytest.fixture(scope="module", params=METHODS)
def trained(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Every method in turn."""
    models: list[PeftModel] = []
    adapt = Work.adapt

    def keep(work: Work, model: PreTrainedModel) -> PeftModel:
        models.append(adapt(work, model))
        return models[-1]

    folder = tmp_path_factory.mktemp(request.param)
    held_out = str(write_rows(folder / "eval.jsonl", rows(9, start=40)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "adapt", keep)
        changes = {"data__eval": held_out, **CHANGES.get(request.param, {})}
        result = run(folder, tiny_base, method=request.param, **changes)
    return Trained(request.param, result, models[0], tiny_base)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def test_every_method_learns(trained: Trained) -> None:
    metrics = trained.result.manifest.metrics
    assert metrics["loss"] < metrics["base.loss"] - 1
    assert metrics.keys() >= {"accuracy", "macro_f1", "base.accuracy", "base.macro_f1"}
    assert trained.result.manifest.method == trained.method


def test_every_adapted_layer_learns(trained: Trained) -> None:
    """A gradient that stops somewhere leaves ΔW = BA at zero below."""
    weights = tensors(trained.result)
    changed = [name for name in weights if "lora_B" in name]
    assert len(changed) == LAYERS
    for name in changed:
        assert (weights[name] @ weights[name.replace("lora_B", "lora_A")]).abs().max() > 1e-4


def test_every_result_is_plain_lora_or_says_what_it_is(trained: Trained) -> None:
    config = json.loads((trained.result.adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["use_rslora"] is False
    assert config["init_lora_weights"] is True
    assert config["use_dora"] is (trained.method == "dora")
    assert config["modules_to_save"] is None
    parts = (".lora_A.weight", ".lora_B.weight", NOT_PLAIN.get(trained.method, ".lora_A.weight"))
    assert all(any(part in key for part in parts) for key in tensors(trained.result))
    if trained.method in TWICE_THE_RANK:
        assert (config["r"], config["lora_alpha"]) == (8, 16)


def test_our_engine_serves_it_as_trained_or_refuses_it_with_the_way_out(trained: Trained) -> None:
    if trained.method in NOT_PLAIN:
        with pytest.raises(InvalidAdapter, match=r"'use_dora' is True.*`adapters merge`"):
            read_declaration(trained.result.adapter)
        return
    declared = read_declaration(trained.result.adapter)
    base = Lora({}).load_base(request(trained.base))
    weights = tensors(trained.result)
    with torch.no_grad():
        for name in {name.rpartition(".lora_")[0] for name in weights}:
            module = name.removeprefix("base_model.model.")
            update = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
            base.get_submodule(module).weight += declared.scale(module) * update
    assert (logits(base) - logits(trained.served())).abs().max() < 1e-4


def test_what_was_trained_is_what_was_baked(trained: Trained) -> None:
    expected, got = logits(trained.model), logits(trained.baked())
    assert (got - expected).abs().max() < (1e-4 if trained.method in TWICE_THE_RANK else 1e-5)
    untuned = METHODS[trained.method]({}).load_base(request(trained.base))
    assert (logits(untuned) - expected).abs().max() > 0.1


def test_the_probe_is_what_the_adapter_says_where_it_is_served(trained: Trained) -> None:
    probe, model = trained.result.manifest.probe, trained.served()
    assert len(probe) >= 3
    moved = 0.0
    for prompt in probe:
        ids = torch.tensor([prompt.token_ids])
        with torch.no_grad():
            adapted = model(input_ids=ids).logits[0, -1].log_softmax(0)
            with model.disable_adapter():
                base = model(input_ids=ids).logits[0, -1].log_softmax(0)
        tokens = [score.token for score in prompt.top]
        assert tokens == adapted.topk(len(tokens)).indices.tolist()
        assert [s.trained for s in prompt.top] == pytest.approx(adapted[tokens].tolist(), abs=1e-4)
        assert [s.base for s in prompt.top] == pytest.approx(base[tokens].tolist(), abs=1e-4)
        moved = max(moved, *(abs(score.trained - score.base) for score in prompt.top))
    assert moved > 0.5, "a probe that base and adapter answer alike would show nothing"


def test_only_the_adapter_is_trainable_and_counted(trained: Trained) -> None:
    trainable = {n: p for n, p in trained.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trainable)
    assert all(parameter.dtype == torch.float32 for parameter in trainable.values())
    count = sum(parameter.numel() for parameter in trainable.values())
    assert trained.result.trainable_parameters == count


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_every_layer_in_bfloat16_too(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    held_out = str(write_rows(tmp_path / "eval.jsonl", rows(4, start=40)))
    changes = {"data__eval": held_out, "training__precision": "bf16", **CHANGES.get(method, {})}
    result = run(tmp_path, tiny_base, method=method, **changes)
    baked = tensors(result)
    assert all(tensor.dtype == torch.float32 for tensor in baked.values())
    products = [
        tensor @ baked[name.replace("lora_B", "lora_A")]
        for name, tensor in baked.items()
        if "lora_B" in name
    ]
    changed = [product for product in products if product.abs().max() > 1e-5]
    assert len(changed) >= LAYERS - 4, "AdaLoRA may have pruned some"
    assert result.manifest.metrics["loss"] < result.manifest.metrics["base.loss"]


def plan(r: int = 4, steps: int = 100) -> AdapterPlan:
    return AdapterPlan(LoraSettings(r=r, alpha=8), "all-linear", steps, seed=0)


def fresh(method: Method, base: Path, **changes: Any) -> PeftModel:
    """The tiny base with an untrained adapter of that method."""
    torch.manual_seed(0)
    return method.adapt(method.load_base(request(base)), plan(**changes))


def test_lora_plus_has_two_rates(tiny_base: Path) -> None:
    method = LoraPlus({"ratio": 8})
    model = fresh(method, tiny_base)
    optimizer = method.optimizer(model, 1e-3, TrainingConfig(weight_decay=0.1))
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates: dict[str, set[float]] = {"lora_A": set(), "lora_B": set()}
    decays = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates["lora_A" if "lora_A" in names[parameter] else "lora_B"].add(group["lr"])
            decays.add(group["weight_decay"])
    assert rates == {"lora_A": {1e-3}, "lora_B": {8e-3}}
    assert decays == {0.1}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == 2 * LAYERS


@pytest.mark.parametrize("double", [True, False])
def test_qlora_holds_the_base_in_nf4(tiny_base: Path, double: bool) -> None:
    model = QLora({"double_quantization": double}).load_base(request(tiny_base))
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == LAYERS
    for layer in layers:
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.quant_state.nested is double
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_qlora_computes_with_rounded_weights(tiny_base: Path) -> None:
    plain, quantized = (
        logits(method({}).load_base(request(tiny_base))) for method in (Method, QLora)
    )
    assert 0.01 < (plain - quantized).abs().max() < 10


@pytest.mark.parametrize("trained", ["adalora"], indirect=True)
def test_adaloras_ranks_move_to_its_budget_and_differ(trained: Trained) -> None:
    config = json.loads((trained.result.adapter / "adapter_config.json").read_text())
    ranks = config["rank_pattern"].values()
    assert sum(ranks) == 4 * LAYERS, "lora.r is the average at the end"
    assert len(set(ranks)) > 1
    assert max(ranks) > 4
    weights = tensors(trained.result)
    for module, rank in config["rank_pattern"].items():
        assert weights[f"base_model.model.{module}.lora_A.weight"].shape[0] == rank
        assert weights[f"base_model.model.{module}.lora_B.weight"].shape[1] == rank
    assert config["alpha_pattern"] == config["rank_pattern"]


def prune(model: PeftModel) -> None:
    """Random triplets; whole layers of them are pruned, and one or some in the others."""
    torch.manual_seed(1)
    with torch.no_grad():
        for number, layer in enumerate(svd_layers(model)):
            layer.lora_E["default"].normal_()
            layer.lora_E["default"][: number % 7] = 0


def test_a_layer_that_lost_all_its_rank_is_left_out_of_what_is_baked(
    tiny_base: Path, tmp_path: Path
) -> None:
    model = fresh(AdaLora({}), tiny_base)
    prune(model)
    expected = logits(model)
    AdaLora({}).bake(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) == {1, 2, 3, 4, 5, 6}
    assert len(config["target_modules"]) == len(config["rank_pattern"]) == LAYERS - 2
    base = Method({}).load_base(request(tiny_base))
    assert (logits(PeftModel.from_pretrained(base, tmp_path)) - expected).abs().max() < 1e-5


def test_adalora_whose_ranks_did_not_move_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    model = fresh(AdaLora({}), tiny_base)
    with torch.no_grad():
        for layer in svd_layers(model):
            layer.lora_E["default"].fill_(1.0)
    with pytest.raises(VerificationError, match="84 of 84: its ranks did not move"):
        AdaLora({}).bake(model, tmp_path)
    with torch.no_grad():
        for layer in svd_layers(model):
            layer.lora_E["default"].zero_()
    with pytest.raises(VerificationError, match="0 of 84"):
        AdaLora({}).bake(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_adaloras_penalty_is_pefts(tiny_base: Path) -> None:
    method = AdaLora({"orthogonality": 0.25})
    model = fresh(method, tiny_base)
    with torch.no_grad():
        with_penalty = model(input_ids=IDS, labels=IDS).loss
        without = model.base_model.model(input_ids=IDS, labels=IDS).loss
        penalty = method.penalty(model)
    assert penalty > 0
    assert with_penalty - without == pytest.approx(penalty.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "changes", "complaint"),
    [
        ({"initial_rank": 4}, {}, "nothing to prune"),
        ({"initial_rank": 3}, {}, "nothing to prune"),
        ({}, {"steps": 3}, "in which to move ranks"),
        ({"settle": 0.5, "finish": 0.5}, {}, "in which to move ranks"),
    ],
)
def test_an_adalora_that_could_not_move_its_ranks_is_refused(
    options: dict[str, Any], changes: dict[str, int], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        AdaLora(options).peft_config(plan(**changes))


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        (LoraPlus, {"ratoi": 3}, "no option 'ratoi'.*Did you mean 'ratio'"),
        (LoraPlus, {"ratio": 0.5}, "'ratio' cannot be 0.5"),
        (QLora, {"double_quantization": "perhaps"}, "'double_quantization' cannot be 'perhaps'"),
        (AdaLora, {"settle": 1}, "'settle' cannot be 1"),
        (Method, {"ratio": 3}, "no option 'ratio'"),
    ],
)
def test_a_wrong_option_of_a_method_is_named(
    method: type[Method], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        method(options)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_from_the_weight_is_pefts(tiny_base: Path, init: str) -> None:
    ours = fresh(Lora({"init": init}), tiny_base)
    base = Lora({}).load_base(request(tiny_base))
    config = LoraConfig(**plan().lora_arguments(), init_lora_weights=init)
    theirs = dict(get_peft_model(base, config).named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter, theirs[name], atol=1e-5), name


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_model_that_starts_from_its_weights_answers_as_before(tiny_base: Path, init: str) -> None:
    base = logits(Lora({}).load_base(request(tiny_base)))
    for dora in (False, True):
        model = fresh(Lora({"init": init, "dora": dora}), tiny_base)
        assert (logits(model) - base).abs().max() < 1e-4
        with model.disable_adapter():
            assert (logits(model) - base).abs().max() > 0.1, "something was taken out"


@pytest.mark.parametrize("options", [{"init": "pissa", "dora": True, "rslora": True}])
def test_all_switches_at_once_bake_to_what_was_trained(
    tiny_base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    method = Lora(options)
    model = fresh(method, tiny_base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter) * (1 + ("magnitude" in name)))
    expected = logits(model)
    method.bake(model, tmp_path)
    base = Lora({}).load_base(request(tiny_base))
    assert (logits(base) - expected).abs().max() > 0.1
    assert (logits(PeftModel.from_pretrained(base, tmp_path)) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_that_was_made_elsewhere_is_restored_with_its_residual(
    tiny_base: Path, tmp_path: Path, init: str
) -> None:
    """Another machine's singular vectors may differ, in their signs at the least."""
    method, other = Lora({"init": init}), Lora({"init": init})
    model, resumed = fresh(method, tiny_base), fresh(other, tiny_base)
    state = method.state(model)
    for name, (a, b) in state["start"].items():
        state["start"][name] = [0.9 * a, b]
    untouched = {n: p.clone() for n, p in resumed.named_parameters() if "base_layer" in n}
    other.restore(resumed, method.state(model))
    for name, parameter in resumed.named_parameters():
        if "base_layer" in name:
            assert torch.equal(parameter, untouched[name]), "the same start changes no bit"
    other.restore(resumed, state)
    base = dict(Lora({}).load_base(request(tiny_base)).named_parameters())
    for name, layer in lora_layers(resumed):
        a, b = state["start"][name]
        residual = base[f"{name}.weight"] - layer.scaling["default"] * b @ a
        assert torch.allclose(layer.base_layer.weight, residual, atol=1e-5)


@pytest.mark.parametrize("method", ["pissa", "olora", "dora"])
def test_an_interrupted_run_ends_with_the_same_bytes(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", tiny_base, method=method)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", tiny_base, method=method, watcher=InterruptAt(4))
    (path,) = (tmp_path / "cut" / "runs").iterdir()
    resumed = resume(path)
    expected = tensors(whole)
    assert all(torch.equal(value, expected[name]) for name, value in tensors(resumed).items())


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_four_bits_refuse_a_start_from_the_weights(init: str) -> None:
    with pytest.raises(ConfigError, match=rf"rounded to 4 bits a second time.*--method {init}"):
        QLora({"init": init})


def test_a_rank_that_the_weights_do_not_have_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.r is 1000, but .* parts at most"):
        fresh(Pissa({}), tiny_base, r=1000)


def test_switches_are_options_of_every_lora(tiny_base: Path) -> None:
    model = fresh(QLora({"dora": True, "rslora": True}), tiny_base)
    config = model.peft_config["default"]
    assert (config.use_dora, config.use_rslora) == (True, True)
    assert RsLora({"rslora": False}).options.rslora is False
    assert RsLora({}).options.rslora is True


def test_rslora_is_written_with_its_scale_in_alpha(tiny_base: Path, tmp_path: Path) -> None:
    method = RsLora({})
    model = fresh(method, tiny_base)
    scales = {layer.scaling["default"] for _, layer in lora_layers(model)}
    method.bake(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["use_rslora"] is False
    assert {config["lora_alpha"] / config["r"]} == scales == {8 / 2}


def test_full_fine_tuning_leaves_a_plain_model(tiny_base: Path, tmp_path: Path) -> None:
    held_out = str(write_rows(tmp_path / "eval.jsonl", rows(9, start=40)))
    result = run(tmp_path, tiny_base, method="full", data__eval=held_out)
    base = Lora({}).load_base(request(tiny_base))
    trained = Lora({}).load_base(request(result.adapter))
    assert result.trainable_parameters == sum(p.numel() for p in base.parameters())
    assert result.manifest.metrics["loss"] < result.manifest.metrics["base.loss"] - 1
    changed = dict(trained.named_parameters())
    assert all(not torch.equal(p, changed[name]) for name, p in base.named_parameters())
    assert not list(result.run.glob("adapter/*"))
    assert AutoTokenizer.from_pretrained(result.adapter).chat_template


def test_full_fine_tuning_is_refused_before_it_trains_unless_nothing_is_published(
    tiny_base: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "train.jsonl", rows(12))
    given = (
        *("train", "--name", "x", "--base", tiny_base, "--data", data, "--method", "full"),
        *("--max-steps", 1, "--runs", tmp_path / "runs", "--registry", tmp_path / "registry"),
    )
    refused = adapters(*given)
    assert refused.code == 2
    assert "--no-publish" in refused.err
    assert not (tmp_path / "runs").exists()
    result = done(*given, "--no-publish", "--json").json
    assert Path(result["adapter"], "model.safetensors").is_file()


def test_a_base_without_an_output_layer_is_no_language_model(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=64, intermediate_size=32, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no weights for cls.*task\.way=head"):
        Lora({}).load_base(request(tmp_path))
