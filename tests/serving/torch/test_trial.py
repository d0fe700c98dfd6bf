"""Only what is computed right is served; the rest is refused before the first request."""

from pathlib import Path

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from adaptery.base_model import open_base
from adaptery.errors import AdapteryError, BaseNotFound, ConfigError, DoesNotFit, UsageError
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import GenerationRequest, SamplingParams
from adaptery.serving.torch.engine import TorchEngine
from adaptery.serving.torch.trial import require_same, short_windows
from tests.serving import models

pytestmark = pytest.mark.anyio

PROMPT = [i % 90 + 5 for i in range(70)]


async def greedy(directory: Path, config: ServeConfig, **changes) -> list[int]:
    engine = TorchEngine(open_base(str(directory)), config.model_copy(update=changes), "thread")
    try:
        await engine.start()
        request = GenerationRequest(tuple(PROMPT), SamplingParams(12, temperature=0))
        return [chunk.token async for chunk in engine.generate(request)]
    finally:
        await engine.close()


def write(directory: Path, model: PreTrainedModel) -> Path:
    return models.write_base(directory, model)


@pytest.mark.parametrize("window", [100, 512], ids=["shorter", "as long as the context"])
async def test_a_window_that_only_a_mask_would_tell_of_is_not_overlooked(tmp_path, config, window):
    torch.manual_seed(2)
    shape = PhimoeConfig(**models.SHAPE, sliding_window=window, num_local_experts=2)
    directory = write(tmp_path, PhimoeForCausalLM(shape))
    if window < models.SHAPE["max_position_embeddings"]:
        with pytest.raises(UsageError, match="cannot run PhimoeForCausalLM"):
            await greedy(directory, config)
    else:
        assert await greedy(directory, config) == models.truth(directory, None, PROMPT, 12)


def test_the_trial_leaves_windows_as_they_were(base):
    model = MistralForCausalLM(MistralConfig(**models.SHAPE, sliding_window=100))
    with short_windows(model):
        assert model.config.sliding_window < 19
    assert model.config.sliding_window == 100


async def test_experts_are_served(tmp_path, config):
    torch.manual_seed(2)
    shape = MixtralConfig(**models.SHAPE, num_local_experts=4, num_experts_per_tok=2)
    directory = write(tmp_path, MixtralForCausalLM(shape))
    assert await greedy(directory, config) == models.truth(directory, None, PROMPT, 12)


async def test_what_would_be_computed_wrong_is_refused(tmp_path, config):
    shape = MambaConfig(vocab_size=124, hidden_size=32, num_hidden_layers=1, state_size=4)
    directory = write(tmp_path, MambaForCausalLM(shape))
    with pytest.raises(UsageError, match="cannot run MambaForCausalLM as it should: ") as refused:
        await greedy(directory, config)
    assert refused.value.exit_code == 2


async def test_what_is_no_decoder_is_refused_in_a_line(tmp_path, config):
    shape = T5Config(vocab_size=124, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
    T5ForConditionalGeneration(shape).save_pretrained(tmp_path)
    models.write_tokenizer(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be loaded as a model: .*T5Config") as refused:
        await greedy(tmp_path, config)
    assert len(str(refused.value).splitlines()) == 1


def test_scores_that_differ_are_noticed():
    scores = torch.randn(2, 100)
    require_same(scores, scores + 0.01 * torch.randn(2, 100))
    for other in (torch.randn(2, 100), scores + float("nan"), scores.roll(1, 0)):
        with pytest.raises(UsageError, match="differ"):
            require_same(scores, other)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_context": 4096}, ConfigError),  # the base was made for 512
        ({"device": "mps"}, ConfigError),
        ({"kv_memory": 10**15}, DoesNotFit),
        ({"kv_memory": 10**5}, DoesNotFit),  # less than one request needs
    ],
    ids=["context", "device", "memory", "too little memory"],
)
async def test_what_the_machine_or_the_base_cannot_do_is_refused(
    base_directory, config, changes, error: type[AdapteryError]
):
    with pytest.raises(error):
        await greedy(base_directory, config, **changes)


async def test_scaled_positions_that_depend_on_the_neighbours_are_not_used(tmp_path, config):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 90,
    }
    directory = models.write_qwen2(tmp_path, rope_parameters=rope)
    with pytest.raises(ConfigError, match="90"):
        await greedy(directory, config, max_context=91)
    answer = await greedy(directory, config, max_context=None)
    assert answer == models.truth(directory, None, PROMPT, 12)


async def test_a_base_whose_weights_are_damaged_is_refused(tmp_path, config):
    directory = models.write_qwen2(tmp_path)
    base = open_base(str(directory))
    (directory / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BaseNotFound):
        await TorchEngine(base, config, "thread").start()
