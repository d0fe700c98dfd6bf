"""Rows of training data: what kinds there are, which formats they come in, how files are read."""
