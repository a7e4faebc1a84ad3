"""Trunks, the dual-branch encoder, and UDMSH as a LightningModule."""

from udmsh_pl.models.backbones import Trunk, TrunkInfo, build_trunk, trunk_info
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.encoder import DualBranchEncoder
from udmsh_pl.models.udmsh import UDMSH
from udmsh_pl.models.udmsh_plus import UDMSHPlus

__all__ = ["UDMSH", "DualBranchEncoder", "HashingModule", "Trunk", "TrunkInfo", "UDMSHPlus", "build_trunk", "trunk_info"]
