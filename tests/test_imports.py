"""Which part may import which, and what the help may cost."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "adaptery"
FOUNDATION = {"types", "errors", "config", "base_model", "classification"}
MAY_IMPORT = {
    "types": {"errors"},
    "errors": set(),
    "config": {"errors"},
    "base_model": {"types", "errors"},
    "classification": {"types", "errors"},
    "registry": FOUNDATION,
    "trainers": FOUNDATION,
    "serving": FOUNDATION,
    "exporters": FOUNDATION,
    "plugins": FOUNDATION | {"registry", "trainers", "serving", "exporters", ""},
    "cli": FOUNDATION | {"registry", "trainers", "serving", "exporters", "plugins", ""},
    "": FOUNDATION | {"registry", "plugins"},  # the package itself
}
HEAVY = {
    *("torch", "transformers", "peft", "sqlalchemy", "psycopg", "fsspec", "fastapi"),
    *("huggingface_hub", "rich"),
}
HELP_SECONDS = 0.2


def part_of(name: str) -> str:
    """`adaptery.registry.local` is in the part `registry`, `adaptery.hookimpl` in none."""
    part = name.removeprefix("adaptery").strip(".").split(".")[0]
    return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file() else ""


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports anywhere, for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "adaptery")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_point_from_the_outside_in(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = "" if relative.name == "__init__.py" and len(relative.parts) == 1 else relative.parts[0]
    own = own.removesuffix(".py")
    for module in imports(path):
        part = part_of(module)
        assert part == own or part in MAY_IMPORT[own], f"{relative} imports {module}"


def test_the_reading_of_imports_sees_them_all(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import adaptery.cli\nimport os, adaptery.serving as s\n"
        "def f():\n    from adaptery import registry, hookimpl\n    from adaptery.types import X\n"
    )
    parts = {part_of(module) for module in imports(path)}
    assert parts == {"cli", "serving", "registry", "", "types"}


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert parts - {"__init__"} == set(MAY_IMPORT) - {""}


def loaded_by(*arguments: str) -> set[str]:
    """The top-level modules that a run of the command imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "adaptery.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 20
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["serve", "--help"]], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_by(*arguments)
    assert "adaptery" in loaded
    assert not loaded & HEAVY


def test_listing_the_methods_loads_no_torch() -> None:
    assert not loaded_by("methods", "--json") & {"torch", "transformers", "peft"}


def test_the_help_is_there_in_a_fifth_of_a_second() -> None:
    """Of the process' own time, so that a busy machine does not fail it; best of five."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "adaptery.cli", "--help"],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < HELP_SECONDS
