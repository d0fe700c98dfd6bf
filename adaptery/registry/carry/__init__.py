"""Versions and histories on their way: from other tools, to other registries, in files, signed."""
