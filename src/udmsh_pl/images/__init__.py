"""Pictures on a disk: lists, splits, protocols, packing and decoding.

Knows no network and no Lightning.
"""

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
