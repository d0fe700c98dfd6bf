"""Versions, aliases and their history: kept in a directory (`local`) or on the Hub (`hub`)."""
