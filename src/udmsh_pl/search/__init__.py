"""From a trained hash to a search: encode, index, search, find copies, export.

Example:
    >>> import udmsh_pl
    >>> sorted(name for name in dir(udmsh_pl.search) if name[0].isupper())
    ['Codes', 'HashEncoder', 'ImageIndex', 'Match']
"""

from udmsh_pl.search.encoder import Codes, HashEncoder
from udmsh_pl.search.index import ImageIndex
from udmsh_pl.search.searcher import Match

__all__ = ["Codes", "HashEncoder", "ImageIndex", "Match"]
