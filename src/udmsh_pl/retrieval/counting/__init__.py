"""Counting distances: compiled kernels for the CPU, matrix products for a GPU."""
