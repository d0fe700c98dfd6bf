from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptery.cli.context import plugins
from tests.plugins.distributions import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Where this test's plugins are installed."""
    yield Site(tmp_path / "site", monkeypatch)
    plugins.cache_clear()
