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

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from tests.command import adapters, done
from tests.models import write_rows
from tests.trainers.runs import rows

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin-dora"


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
    source = folder / "plugin-dora"  # building writes beside the sources
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
    methods = there(python, "methods")
    assert [m["name"] for m in methods] == ["lora", "qlora", "loraplus", "adalora", "dora"]
    assert methods[-1]["plugin"] == "adapters-dora"


def test_a_fifth_method_trains_and_what_it_made_needs_the_plugin_no_more(
    python: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """It is kept and merged like any other version, and refused where it cannot be applied."""
    store = ("--registry", tmp_path / "registry")
    result = there(
        python,
        *("train", "--name", "colours", "--method", "dora", "--base", tiny_base),
        *("--data", write_rows(tmp_path / "train.jsonl", rows(12)), "--max-steps", 4),
        *("--rank", 4, "--learning-rate", 5e-3, "--runs", tmp_path / "runs", *store),
    )
    assert (result["method"], result["version"]) == ("dora", 1)

    registry = LocalRegistry.open(str(tmp_path / "registry"))
    version = registry.resolve(AdapterRef("colours", number=1))
    config = json.loads((registry.materialize(version) / "adapter_config.json").read_text())
    assert config["use_dora"] is True

    refused = adapters("chat", "colours@1", "--prompt", "hello", *store)
    assert refused.code == 2
    assert refused.out == ""
    for part in ("colours@", "'use_dora' is True", "`adapters merge`"):
        assert part in refused.err

    merged = done("merge", "colours@1", "--output", tmp_path / "merged", "--json", *store).json
    assert merged["same_first_token"] == merged["prompts"]
    assert (tmp_path / "merged" / "model.safetensors").is_file()
