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

_MODULE_OF = {
    "ImageDataset": "udmsh_pl.images.image_list",
    "ImageList": "udmsh_pl.images.image_list",
    "Protocol": "udmsh_pl.images.protocol",
    "Splits": "udmsh_pl.images.image_list",
    "read_list": "udmsh_pl.images.list_file",
    "walk": "udmsh_pl.images.walk",
    "write_list": "udmsh_pl.images.list_file",
}

__getattr__, __dir__ = touched(__name__, _MODULE_OF)
