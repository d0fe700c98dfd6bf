"""The plugin contract, the manager, and the built-in plugins."""
