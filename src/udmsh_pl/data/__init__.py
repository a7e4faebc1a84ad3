"""Benchmarks as Lightning data modules, and the lists of images under them."""

from udmsh_pl.data.cifar10 import CIFAR10
from udmsh_pl.data.coco import COCO
from udmsh_pl.data.fashion_mnist import FashionMNIST, FashionSample
from udmsh_pl.data.mirflickr import MIRFlickr
from udmsh_pl.data.nuswide import NUSWIDE
from udmsh_pl.data.own_pictures import ImageFolders, ListFiles

__all__ = [
    "CIFAR10", "COCO", "NUSWIDE", "FashionMNIST", "FashionSample", "ImageFolders", "ListFiles",
    "MIRFlickr",
]  # fmt: skip
