"""The `adapters` command: the only place where the parts are put together."""

from adaptery.cli.main import main

__all__ = ["main"]
