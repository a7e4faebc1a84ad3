"""From a trained hash to a search: encode, index, search, find copies, export.

The names below are loaded when they are touched: a search from the command line starts OpenVINO
first.

Example:
    >>> import udmsh_pl.search
    >>> sorted(name for name in dir(udmsh_pl.search) if name in udmsh_pl.search.__all__)
    ['Codes', 'HashEncoder', 'ImageIndex', 'Match']
"""

from typing import TYPE_CHECKING

from udmsh_pl import touched

if TYPE_CHECKING:
    from udmsh_pl.search.encoder import Codes, HashEncoder
    from udmsh_pl.search.index import ImageIndex
    from udmsh_pl.search.searching import Match

__all__ = ["Codes", "HashEncoder", "ImageIndex", "Match"]

_NAMES_OF = {
    "udmsh_pl.search.encoder": "Codes HashEncoder",
    "udmsh_pl.search.index": "ImageIndex",
    "udmsh_pl.search.searching": "Match",
}

__getattr__, __dir__ = touched(__name__, _NAMES_OF)
