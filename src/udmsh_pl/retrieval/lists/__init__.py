"""Inverted lists of binary codes, for collections too large to look at every code of.

Each code lies in the list of its nearest centre; a search looks into the lists whose centres are
nearest to the query (as IVFADC without its residuals: Jégou et al., TPAMI 2011). The files are
mapped into memory, so that they may be larger than it.
"""

from udmsh_pl.retrieval.lists.build import build_lists
from udmsh_pl.retrieval.lists.inverted import InvertedLists

__all__ = ["InvertedLists", "build_lists"]
