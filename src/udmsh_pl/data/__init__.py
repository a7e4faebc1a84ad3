"""Benchmarks as Lightning data modules, and the lists of images under them."""
