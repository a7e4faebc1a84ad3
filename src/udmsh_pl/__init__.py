"""Unsupervised deep image hashing: UDMSH in PyTorch Lightning, its baselines, exact evaluation."""

__version__ = "0.1.0"
