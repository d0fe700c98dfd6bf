import pytest
from transformers import PreTrainedModel

from adaptery.errors import ConfigError, UnknownName
from adaptery.trainers.config import LoraSettings
from adaptery.trainers.targets import linear_layers, resolve_targets

ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
MLP = ["down_proj", "gate_proj", "up_proj"]


def test_the_linear_layers_are_all_but_the_output_layer(model: PreTrainedModel) -> None:
    layers = linear_layers(model)
    assert len(layers) == 14
    assert {name.rpartition(".")[2] for name in layers} == {*ATTENTION, *MLP}


@pytest.mark.parametrize(
    ("wanted", "targets"),
    [
        ("all", "all-linear"),
        ("attention", ATTENTION),
        ("mlp", MLP),
        (("v_proj", "q_proj"), ["q_proj", "v_proj"]),
        (("model.layers.1.mlp.up_proj",), ["model.layers.1.mlp.up_proj"]),
    ],
)
def test_targets_are_resolved(
    model: PreTrainedModel, wanted: str | tuple[str, ...], targets: str | list[str]
) -> None:
    assert resolve_targets(model, wanted) == targets


def test_an_unknown_layer_is_named_with_the_nearest_one(model: PreTrainedModel) -> None:
    with pytest.raises(UnknownName, match=r"'q_porj'.*Did you mean 'q_proj'"):
        resolve_targets(model, ("v_proj", "q_porj"))


def test_a_group_that_the_model_does_not_have_is_a_sentence(model: PreTrainedModel) -> None:
    del model.model.layers[0].mlp, model.model.layers[1].mlp
    with pytest.raises(ConfigError, match="no linear layer under mlp"):
        resolve_targets(model, "mlp")


@pytest.mark.parametrize(
    ("text", "targets"),
    [("all", "all"), ("mlp", "mlp"), ("q_proj", ("q_proj",)), ("a, b,", ("a", "b"))],
)
def test_a_flag_names_targets_with_commas(text: str, targets: str | tuple[str, ...]) -> None:
    assert LoraSettings(targets=text).targets == targets


@pytest.mark.parametrize("text", ["", ",", " "])
def test_no_target_at_all_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="target"):
        LoraSettings(targets=text)
