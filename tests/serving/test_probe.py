"""A version is proven before it answers."""

import logging
import shutil

import pytest

from adaptery.errors import ProbeMismatch
from adaptery.serving.probe import replay
from adaptery.types import ProbePrompt, TokenScore
from tests.serving import models
from tests.serving.dict_registry import DictRegistry

pytestmark = pytest.mark.anyio

PROMPTS = [[5, 6, 7], [40, 41], [90]]


@pytest.fixture
def publish(tmp_path, base, engine):
    """Publish an adapter with a probe, load it, and give the version."""
    registry = DictRegistry(tmp_path, base.identity)

    async def publish(directory, probe):
        version = registry.publish("a", directory, probe=probe)
        await engine.load(version.engine_name, registry.materialize(version))
        return version

    return publish


async def test_the_trained_model_is_recognised(engine, publish, base_directory, adapters):
    for directory in adapters.values():
        probe = models.probe_of(base_directory, directory, PROMPTS)
        await replay(engine, await publish(directory, probe))


async def test_another_adapter_is_not(engine, publish, base_directory, adapters):
    probe = models.probe_of(base_directory, adapters["wide"], PROMPTS)
    with pytest.raises(ProbeMismatch, match=r"differ by \d+\.\d+ on average"):
        await replay(engine, await publish(adapters["stable"], probe))


async def test_the_base_alone_is_not(engine, publish, tmp_path_factory, base_directory, adapters):
    """As where the names of modules do not match and an adapter is applied nowhere."""
    empty = tmp_path_factory.mktemp("empty")
    shutil.copytree(adapters["wide"], empty, dirs_exist_ok=True)
    models.edit_config(empty, lora_alpha=0)
    probe = models.probe_of(base_directory, adapters["wide"], PROMPTS)
    with pytest.raises(ProbeMismatch):
        await replay(engine, await publish(empty, probe))


async def test_an_adapter_at_a_third_of_its_strength_is_not(
    engine, publish, tmp_path_factory, base_directory
):
    """Such as rsLoRA applied as plain LoRA of rank 9."""
    directory = tmp_path_factory.mktemp("weak")
    models.write_adapter(
        directory, base_directory, 4, r=9, use_rslora=True, target_modules=["o_proj"]
    )
    probe = models.probe_of(base_directory, directory, PROMPTS)
    models.edit_config(directory, use_rslora=False)
    with pytest.raises(ProbeMismatch):
        await replay(engine, await publish(directory, probe))


def shifted(probe: list[ProbePrompt], by: float) -> list[ProbePrompt]:
    """A probe whose trained scores are another model's, the base being nearly the trained one."""
    return [
        ProbePrompt(
            token_ids=prompt.token_ids,
            top=tuple(
                TokenScore(token=s.token, trained=s.trained - by, base=s.trained - by - 0.01)
                for s in prompt.top
            ),
        )
        for prompt in probe
    ]


async def test_rounding_is_allowed_where_an_adapter_changes_next_to_nothing(
    engine, publish, base_directory, adapters
):
    probe = models.probe_of(base_directory, adapters["wide"], PROMPTS)
    await replay(engine, await publish(adapters["wide"], shifted(probe, 0.09)))
    with pytest.raises(ProbeMismatch, match=r"0\.110 on average, where 0\.100 is allowed"):
        await replay(engine, await publish(adapters["wide"], shifted(probe, 0.11)))


async def test_a_version_without_a_probe_is_served_and_the_log_says_so(
    engine, publish, adapters, caplog
):
    with caplog.at_level(logging.WARNING):
        await replay(engine, await publish(adapters["wide"], ()))
    assert "a@1 has no probe" in caplog.text
