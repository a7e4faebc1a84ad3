"""Backbones, the dual-branch encoder, and UDMSH as a LightningModule."""

from udmsh_pl.backbones.networks import (
    Backbone,
    BackboneFeatures,
    BackboneInfo,
    backbone_info,
    build_backbone,
)
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.heads import DualBranchEncoder
from udmsh_pl.models.labelled import UDMSHPlusLabelled
from udmsh_pl.models.udmsh import UDMSH
from udmsh_pl.models.udmsh_plus import UDMSHPlus

__all__ = [
    "UDMSH", "Backbone", "BackboneFeatures", "BackboneInfo", "DualBranchEncoder", "HashingModule",
    "UDMSHPlus", "UDMSHPlusLabelled", "backbone_info", "build_backbone",
]  # fmt: skip
