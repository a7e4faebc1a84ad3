"""Backbones: weights, networks, and the way from pixels to features."""

from typing import TYPE_CHECKING

from udmsh_pl import touched

if TYPE_CHECKING:
    from udmsh_pl.backbones.networks import (
        OFFLINE_BACKBONE,
        Backbone,
        BackboneFeatures,
        BackboneInfo,
        backbone_info,
        build_backbone,
        weights_id,
    )

__all__ = [
    "OFFLINE_BACKBONE", "Backbone", "BackboneFeatures", "BackboneInfo", "backbone_info",
    "build_backbone", "weights_id",
]  # fmt: skip

__getattr__, __dir__ = touched(__name__, {"udmsh_pl.backbones.networks": " ".join(__all__)})
