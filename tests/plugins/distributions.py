"""Plugins as users install them: a module and a distribution's metadata with an entry point."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from adaptery.cli.context import plugins

PREAMBLE = "from adaptery import hookimpl\nfrom adaptery.plugins.specs import Spec\n"


class Site:
    """A folder on the import path that plugins can be installed into."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)

    def install(self, distribution: str, source: str, module: str | None = None) -> None:
        """Add a distribution with one plugin module, whose source is given without its imports."""
        name = module or distribution.replace("-", "_")
        self.monkeypatch.delitem(sys.modules, name, raising=False)
        (self.folder / f"{name}.py").write_text(PREAMBLE + dedent(source))
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[adapters]\n{name} = {name}\n")
        plugins.cache_clear()
