"""Pictures on a disk: lists, splits, protocols, packing and decoding.

Knows no network and no Lightning. The names below are loaded when they are touched: who only
decodes a picture does not wait for torch.
"""

from typing import TYPE_CHECKING

from udmsh_pl import touched

if TYPE_CHECKING:
    from udmsh_pl.images.folder import find_images
    from udmsh_pl.images.image_list import ImageDataset, ImageList, Splits
    from udmsh_pl.images.list_file import read_list, write_list
    from udmsh_pl.images.protocol import Protocol

__all__ = [
    "ImageDataset",
    "ImageList",
    "Protocol",
    "Splits",
    "find_images",
    "read_list",
    "write_list",
]

_MODULE_OF = {
    "ImageDataset": "udmsh_pl.images.image_list",
    "ImageList": "udmsh_pl.images.image_list",
    "Protocol": "udmsh_pl.images.protocol",
    "Splits": "udmsh_pl.images.image_list",
    "find_images": "udmsh_pl.images.folder",
    "read_list": "udmsh_pl.images.list_file",
    "write_list": "udmsh_pl.images.list_file",
}

__getattr__, __dir__ = touched(__name__, _MODULE_OF)
