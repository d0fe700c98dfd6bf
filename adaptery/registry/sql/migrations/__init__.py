"""Alembic's migrations of the catalogue, run by `adaptery.registry.sql.catalogue`."""
