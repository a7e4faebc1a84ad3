"""Trunks, the dual-branch encoder, and UDMSH as a LightningModule."""

from udmsh_pl.models.backbones import Trunk, TrunkInfo, build_trunk, trunk_info
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.encoder import DualBranchEncoder
from udmsh_pl.models.udmsh import UDMSH

__all__ = ["UDMSH", "DualBranchEncoder", "HashingModule", "Trunk", "TrunkInfo", "build_trunk", "trunk_info"]
