"""The example plugin, installed into a fresh environment by pip, as somebody else's would be."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.command import done
from tests.models import write_rows
from tests.trainers.runs import rows

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin-lora-fa"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that sees ours and has the plugin beside it.

    No network: pip builds with the setuptools that is here, and takes no requirements.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    ours = sysconfig.get_path("purelib")
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (theirs / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    source = folder / "plugin-lora-fa"  # building writes beside the sources
    subprocess.run(["cp", "-r", PLUGIN, source], check=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
            *("--no-deps", "--no-build-isolation", "--no-index", source),
        ],
        check=True,
    )
    return python


def there(python: Path, *arguments: object) -> Any:
    """What a command that must succeed prints in that environment, as JSON."""
    ended = subprocess.run(
        [python, "-m", "adaptery.cli", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        cwd=PLUGIN.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_installed_plugin_is_listed_with_its_distribution(python: Path) -> None:
    methods = {method["name"]: method["plugin"] for method in there(python, "methods")}
    assert methods["lorafa"] == "adapters-lorafa"
    assert methods["lora"] == methods["dora"] == "adaptery"


def test_a_method_of_a_plugin_trains_and_what_it_made_needs_the_plugin_no_more(
    python: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """It is kept, merged and served like any other version."""
    store = ("--registry", tmp_path / "registry")
    result = there(
        python,
        *("train", "--name", "colours", "--method", "lorafa", "--base", tiny_base),
        *("--data", write_rows(tmp_path / "train.jsonl", rows(12)), "--max-steps", 4),
        *("--rank", 4, "--learning-rate", 5e-3, "--runs", tmp_path / "runs", *store),
    )
    assert (result["method"], result["version"]) == ("lorafa", 1)

    registry = LocalRegistry.open(str(tmp_path / "registry"))
    version = registry.resolve(AdapterRef("colours", number=1))
    weights = load_file(registry.materialize(version) / "adapter_model.safetensors")
    b = [tensor for name, tensor in weights.items() if "lora_B" in name]
    assert result["trainable_parameters"] == sum(tensor.numel() for tensor in b)
    assert 2 * len(b) == len(weights)
    assert all(tensor.any() for tensor in weights.values())

    merged = done("merge", "colours@1", "--output", tmp_path / "merged", "--json", *store).json
    assert merged["same_first_token"] == merged["prompts"]
    answered = done("chat", "colours@1", "--prompt", "hello", *store)
    assert answered.code == 0


def test_an_interrupted_run_goes_on_with_the_same_a(python: Path, tiny_base: Path) -> None:
    """A is not among what is trained, so the method itself keeps it in the checkpoint."""
    program = f"""
import sys
sys.path.insert(0, {str(PLUGIN)!r})
import torch
from pathlib import Path
from adapters_lorafa import LoraFa, down_projections
from adaptery.trainers.config import LoraSettings
from adaptery.trainers.method import AdapterPlan, BaseRequest
def adapted(seed):
    torch.manual_seed(seed)
    method = LoraFa({{}})
    base = method.load_base(BaseRequest(Path({str(tiny_base)!r}), torch.float32, "cpu"))
    return method, method.adapt(base, AdapterPlan(LoraSettings(r=4), ["q_proj"], 10, seed))
(method, one), (_, other) = adapted(0), adapted(1)
before = {{name: a.clone() for name, a in down_projections(one).items()}}
assert not any(torch.equal(a, before[name]) for name, a in down_projections(other).items())
method.restore(other, method.state(one))
assert all(torch.equal(a, before[name]) for name, a in down_projections(other).items())
"""
    ended = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=PLUGIN)
    assert ended.returncode == 0, ended.stderr
