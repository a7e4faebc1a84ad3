"""Comparison methods, one file each; the base classes are the registry.

Shallow ones (:class:`ShallowHash`) are fitted on an array of features, and
:mod:`udmsh_pl.baselines.shallow` makes models of them; learned ones are a loss on a
:class:`HashingModule`.

Left out, because we hold no definition that is firm enough to test against: DeepBit (CVPR 2016),
UTH (CVPR 2017 workshop), TBH (CVPR 2020) and DistillHash (CVPR 2019). CIMON, NSH and UDTH are our
readings of what their abstracts state; each docstring says what is *read*.
"""

from udmsh_pl.baselines.base import ShallowHash
from udmsh_pl.baselines.bihalf import BiHalf
from udmsh_pl.baselines.cibhash import CIBHash
from udmsh_pl.baselines.cimon import CIMON
from udmsh_pl.baselines.greedyhash import GreedyHash
from udmsh_pl.baselines.itq import ITQ
from udmsh_pl.baselines.lsh import LSH
from udmsh_pl.baselines.mls3rduh import MLS3RDUH
from udmsh_pl.baselines.nsh import NSH
from udmsh_pl.baselines.pcah import PCAH
from udmsh_pl.baselines.sdc import SDC
from udmsh_pl.baselines.sgh import SGH
from udmsh_pl.baselines.sh import SH
from udmsh_pl.baselines.sph import SpH
from udmsh_pl.baselines.ssdh import SSDH
from udmsh_pl.baselines.udth import UDTH
from udmsh_pl.baselines.wch import WCH

__all__ = [
    "CIMON", "ITQ", "LSH", "MLS3RDUH", "NSH", "PCAH", "SDC", "SGH", "SH", "SSDH", "UDTH", "WCH",
    "BiHalf", "CIBHash", "GreedyHash", "ShallowHash", "SpH",
]  # fmt: skip
