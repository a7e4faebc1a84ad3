"""Pictures on a disk: walking, decoding, lists, splits and protocols.

Knows no network and no Lightning. The names below are loaded when they are touched: who only
decodes a picture does not wait for torch.
"""

from typing import TYPE_CHECKING

from udmsh_pl import touched

if TYPE_CHECKING:
    from udmsh_pl.images.image_list import ImageDataset, ImageList, Splits
    from udmsh_pl.images.list_file import read_list, write_list
    from udmsh_pl.images.protocol import Protocol
    from udmsh_pl.images.walk import walk

__all__ = ["ImageDataset", "ImageList", "Protocol", "Splits", "read_list", "walk", "write_list"]

_NAMES_OF = {
    "udmsh_pl.images.image_list": "ImageDataset ImageList Splits",
    "udmsh_pl.images.list_file": "read_list write_list",
    "udmsh_pl.images.protocol": "Protocol",
    "udmsh_pl.images.walk": "walk",
}

__getattr__, __dir__ = touched(__name__, _NAMES_OF)
