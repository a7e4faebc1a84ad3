"""Mutated folders of pictures, and what an index of them must hold."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
