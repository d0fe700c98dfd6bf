"""The gate: what is checked of an adapter before a registry keeps it."""
