"""Unsupervised deep image hashing: UDMSH in PyTorch Lightning, its baselines, and exact
evaluation.
"""

__version__ = "0.1.0"
