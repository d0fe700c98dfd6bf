"""Bytes kept under their SHA-256, in a directory or in object storage."""
