"""Where this machine keeps what it has downloaded."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where downloads are kept: $ADAPTERS_CACHE, else `adaptery` in the user's cache directory."""
    chosen = os.environ.get("ADAPTERS_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{caches}/adaptery").expanduser()
