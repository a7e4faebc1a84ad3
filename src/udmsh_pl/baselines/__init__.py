"""Comparison methods, one file each; the base classes are the registry.

Shallow ones (:class:`ShallowHash`) are fitted on an array of features; learned ones are a loss on a
:class:`HashingModule`.

Left out, because we hold no definition that is firm enough to test against: DeepBit (CVPR 2016),
UTH (CVPR 2017 workshop), TBH (CVPR 2020), DistillHash (CVPR 2019) and, beyond its confidence
weights (``UDMSH(confidence=True)``), CIMON (IJCAI 2021).
"""

from udmsh_pl.baselines.base import ShallowHash
from udmsh_pl.baselines.bihalf import BiHalf
from udmsh_pl.baselines.cibhash import CIBHash
from udmsh_pl.baselines.greedyhash import GreedyHash
from udmsh_pl.baselines.itq import ITQ
from udmsh_pl.baselines.lsh import LSH
from udmsh_pl.baselines.mls3rduh import MLS3RDUH
from udmsh_pl.baselines.pcah import PCAH
from udmsh_pl.baselines.sdc import SDC
from udmsh_pl.baselines.sgh import SGH
from udmsh_pl.baselines.sh import SH
from udmsh_pl.baselines.sph import SpH
from udmsh_pl.baselines.ssdh import SSDH

__all__ = [
    "ITQ",
    "LSH",
    "MLS3RDUH",
    "PCAH",
    "SDC",
    "SGH",
    "SH",
    "SSDH",
    "BiHalf",
    "CIBHash",
    "GreedyHash",
    "ShallowHash",
    "SpH",
]
