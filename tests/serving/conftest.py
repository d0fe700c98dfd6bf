"""A small random base, adapters of it, and a registry that lives in a dict."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
import torch

from adaptery.base_model import LocalBase, open_base
from adaptery.serving.config import ServeConfig
from adaptery.serving.torch.engine import TorchEngine
from tests.serving import models
from tests.serving.dict_registry import DictRegistry
from tests.serving.running import client, running_server

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small matrices on a busy machine: threads would only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_qwen2(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base(base_directory: Path) -> LocalBase:
    return open_base(str(base_directory))


@pytest.fixture(scope="session")
def adapters(base_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of different ranks, targets and scalings."""
    wanted = {
        "narrow": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
        "wide": {"r": 16, "lora_alpha": 16, "target_modules": ALL_LINEAR},
        "stable": {"r": 9, "lora_alpha": 3, "use_rslora": True, "target_modules": ALL_LINEAR},
        "mixed": {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": r".*layers\.\d+\.(self_attn\.o_proj|mlp\.\w+_proj)",
            "rank_pattern": {"down_proj": 7, r"layers\.1\.mlp\.up_proj": 3},
            "alpha_pattern": {"gate_proj": 9},
        },
    }
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: models.write_adapter(root / name, base_directory, seed, **config)
        for seed, (name, config) in enumerate(wanted.items())
    }


@pytest.fixture(scope="session")
def config(base_directory: Path) -> ServeConfig:
    return ServeConfig(
        base=str(base_directory),
        served_name="tiny",
        device="cpu",
        threads=1,
        max_sequences=6,
        max_context=256,
        step_tokens=24,
    )


@pytest.fixture
async def engine(base: LocalBase, config: ServeConfig) -> AsyncIterator[TorchEngine]:
    engine = TorchEngine(base, config, "thread")
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, base: LocalBase, adapters: dict[str, Path]
) -> DictRegistry:
    """`support` with two versions, the first of them live, and `news` with one."""
    registry = DictRegistry(tmp_path_factory.mktemp("registry"), base.identity)
    registry.publish("support", adapters["wide"])
    registry.publish("support", adapters["stable"])
    registry.publish("news", adapters["narrow"])
    return registry


@pytest.fixture(scope="module")
def server(base: LocalBase, config: ServeConfig, registry: DictRegistry) -> Iterator[str]:
    """The address of a server of these."""
    with running_server(TorchEngine(base, config, "thread"), registry, config) as address:
        yield address


@pytest.fixture
def ask(server: str) -> Iterator[openai.OpenAI]:
    """The official client of that server."""
    with client(server) as ask:
        yield ask
