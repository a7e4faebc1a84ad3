"""Centres of inverted lists: k-means of bits, in two levels, so that a code meets a few hundred
centres and not all of them.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.retrieval.codes import Words
from udmsh_pl.retrieval.lists import kernels

ROUNDS = 8  # of Lloyd's algorithm
NEAR = 4  # heads whose centres a code is compared with


@dataclass(frozen=True)
class Centres:
    """Centres of lists in two levels.

    Args:
        heads: uint64 [W, H], planes
        starts: int64 [H + 1], the first centre of each head
        centres: uint64 [W, L], planes, those of one head side by side
    """

    heads: Words
    starts: NDArray[np.int64]
    centres: Words

    def lists_of(self, codes: Words) -> NDArray[np.int32]:
        """The list of each code, uint64 [N, W]: that of the nearest centre of its nearest heads."""
        found = np.empty(len(codes), np.int32)
        near = min(NEAR, self.heads.shape[1])
        kernels.assign(codes, self.heads, self.starts, self.centres, near, found)
        return found


def fit_centres(sample: Words, lists: int, seed: int = 0) -> Centres:
    """Centres for about ``lists`` lists from a sample uint64 [n, W]; a head has the more centres,
    the more codes are its own.
    """
    generator = np.random.default_rng(seed)
    heads = _cluster(sample, max(1, math.isqrt(lists)), generator)
    own = _nearest(sample, heads)
    order = np.argsort(own, kind="stable")
    ends = np.cumsum(np.bincount(own, minlength=heads.shape[1]))
    parts, starts = [], [0]
    for start, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        members = sample[order[start:stop]]
        share = round(lists * len(members) / len(sample))
        if len(members):
            parts.append(_cluster(members, max(1, share), generator))
        starts.append(starts[-1] + (parts[-1].shape[1] if len(members) else 0))
    return Centres(heads, np.array(starts), np.ascontiguousarray(np.concatenate(parts, axis=1)))


def _cluster(codes: Words, count: int, generator: np.random.Generator) -> Words:
    """At most ``count`` centres of codes uint64 [n, W], as planes [W, count]: each bit of a centre
    is that of most of its codes.
    """
    first = generator.permutation(len(codes))[:count]
    centres = np.unique(codes[first], axis=0).T.copy()
    bits = np.unpackbits(codes.view(np.uint8).reshape(len(codes), -1), axis=1)
    for _ in range(ROUNDS if len(codes) > count > 1 or count == 1 else 0):
        own = _nearest(codes, centres)
        sizes = np.bincount(own, minlength=centres.shape[1])
        order = np.argsort(own, kind="stable")
        filled = np.flatnonzero(sizes)
        begins = (np.cumsum(sizes) - sizes)[filled]
        ones = np.add.reduceat(bits[order], begins, axis=0, dtype=np.int32)
        packed = np.packbits(2 * ones >= sizes[filled, None], axis=1)
        new = np.ascontiguousarray(packed).view(np.uint64)
        # a centre that lost all its codes starts anew at one of them
        lost = codes[generator.integers(len(codes), size=len(sizes) - len(filled))]
        centres = np.concatenate([new, lost]).T.copy()
    return centres


def _nearest(codes: Words, centres: Words) -> NDArray[np.int32]:
    whole = np.array([0, centres.shape[1]])
    found = np.empty(len(codes), np.int32)
    kernels.assign(codes, centres[:, :1], whole, centres, 1, found)
    return found
