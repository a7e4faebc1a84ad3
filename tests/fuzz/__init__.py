"""Mutated inputs for every reader of strangers' files: ``python -m tests.fuzz --help``."""
