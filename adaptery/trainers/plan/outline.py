"""A model without its weights: shapes and names, built from `config.json` alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adaptery.base_model import LocalBase
from adaptery.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
TWO_CLASSES = ("0", "1")


def outline(base: LocalBase, labels: Sequence[str] = ()) -> "PreTrainedModel":
    """The base's model on the meta device; with a classification head where there are labels.

    Raises:
        ConfigError: transformers has no such model, or not for this task.
    """
    import torch

    with torch.device("meta"):
        return build(base, labels)


def build(base: LocalBase, labels: Sequence[str], **more: Any) -> "PreTrainedModel":
    """The model with random weights, on whichever device is current.

    Args:
        more: arguments of transformers' `from_config`, such as `dtype`.

    Raises:
        ConfigError: transformers has no such model, or not for this task.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    try:
        changes = {"num_labels": len(labels)} if labels else {}
        config = AutoConfig.from_pretrained(base.directory, **changes)
        auto = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
        model: PreTrainedModel = auto.from_config(config, **more)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConfigError(
            f"No model can be made of {base.identity.id}/config.json: {error}"
        ) from error
    return model


def natural_labels(base: LocalBase) -> tuple[str, ...]:
    """No labels for a base that is a language model; two for an encoder, so that it has a head."""
    named = base.config.get("architectures") or ()
    language = any(str(name).endswith(LANGUAGE_MODELS) for name in named)
    return () if language or not named else TWO_CLASSES


def parameter_count(model: "torch.nn.Module") -> int:
    """Numbers in the model; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())
