"""Comparison methods, one file each; the base classes are the registry."""

from udmsh_pl.baselines.base import ShallowHash
from udmsh_pl.baselines.itq import ITQ
from udmsh_pl.baselines.lsh import LSH
from udmsh_pl.baselines.pcah import PCAH

__all__ = ["ITQ", "LSH", "PCAH", "ShallowHash"]
