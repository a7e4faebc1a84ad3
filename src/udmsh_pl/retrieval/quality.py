"""What codes look like, apart from labels: balance, correlation, entropy, flips."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.codes import check_codes, unpack_codes
from udmsh_pl.retrieval.ties import Float64s, ratio

CODES_AT_ONCE = 65_536  # codes whose signs are there as floats
NEIGHBOURS_AT_ONCE = 256  # items whose likeness to all others is there


@dataclass(frozen=True)
class CodeQuality:
    """Statistics of N codes of K bits.

    *Ours*, after the balance and independence criteria of spectral hashing.

    Attributes:
        balance: float64 [K], share of +1 of each bit; 1/2 is best
        imbalance: mean over bits of |2 balance - 1|: 0 is balanced, 1 is constant
        correlation: mean |Pearson correlation| over pairs of bits, 0 for a constant or single bit
        bit_entropy: mean entropy of single bits, in bits (at most 1)
        code_entropy: entropy of the distribution of whole codes, in bits (at most min(K, log2 N))
        distinct: number of distinct codes
        items: N
    """

    balance: Float64s
    imbalance: float
    correlation: float
    bit_entropy: float
    code_entropy: float
    distinct: int
    items: int


def code_quality(codes: Any, bits: int) -> CodeQuality:
    """Describe packed codes, uint8 [N, ceil(bits / 8)]; raises ``InputError`` for other shapes.

    Example:
        >>> from udmsh_pl.retrieval import code_quality, pack_codes
        >>> best = code_quality(pack_codes([[1, 1], [1, -1], [-1, 1], [-1, -1]]), bits=2)
        >>> best.balance.tolist(), best.correlation, best.code_entropy, best.distinct
        ([0.5, 0.5], 0.0, 2.0, 4)
        >>> code_quality(pack_codes([[1, 1], [1, 1], [-1, -1], [-1, -1]]), bits=2).correlation
        1.0
    """
    packed = check_codes(codes, bits, "codes")
    if not len(packed):
        raise InputError("codes is empty: give at least one item")
    gram, total = np.zeros((bits, bits)), np.zeros(bits)
    for start in range(0, len(packed), CODES_AT_ONCE):  # not N x K floats
        signs = unpack_codes(packed[start : start + CODES_AT_ONCE], bits).astype(np.float32)
        gram += signs.T @ signs  # whole numbers below 2^24: exact in float32
        total += signs.sum(axis=0)
    mean = total / len(packed)
    balance = (1.0 + mean) / 2.0
    spread = np.sqrt(np.maximum(0.0, 1.0 - mean**2))
    covariance = gram / len(packed) - np.outer(mean, mean)
    pairs = ratio(np.abs(covariance), np.outer(spread, spread))[np.triu_indices(bits, 1)]
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    counts = np.unique(rows, return_counts=True)[1]
    return CodeQuality(
        balance=balance,
        imbalance=float(np.abs(mean).mean()),
        correlation=float(pairs.mean()) if len(pairs) else 0.0,
        bit_entropy=float((_surprise(balance) + _surprise(1.0 - balance)).mean()),
        code_entropy=float(_surprise(counts / len(packed)).sum()),
        distinct=len(counts),
        items=len(packed),
    )


def neighbour_flips(
    codes: Any, features: Any, bits: int, sample: int = 2000, seed: int = 0
) -> float:
    """Mean number of bits that differ between an item and its nearest other item in feature space.

    Args:
        codes: uint8 [N, ceil(bits / 8)]
        features: [N, F] numbers, compared by cosine
        bits: code length
        sample: at most this many items look for their neighbour, among all N
        seed: of the draw of these items

    Example:
        The first two items are each other's neighbours, and their codes differ in one bit:

        >>> from udmsh_pl.retrieval import neighbour_flips, pack_codes
        >>> neighbour_flips(pack_codes([[1, 1], [1, -1]]), [[1.0, 0.0], [1.0, 0.1]], bits=2)
        1.0
    """
    packed = check_codes(codes, bits, "codes")
    values = np.asarray(features, dtype=np.float32)
    if values.ndim != 2 or len(values) != len(packed):
        shape = f"features have shape {list(values.shape)}, there are {len(packed)} codes"
        raise InputError(f"{shape}: give [items, features]")
    if len(packed) < 2:
        raise InputError("one item has no neighbour: give at least two")
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    chosen = np.random.default_rng(seed).permutation(len(packed))[:sample]
    flips = 0
    for start in range(0, len(chosen), NEIGHBOURS_AT_ONCE):
        rows = chosen[start : start + NEIGHBOURS_AT_ONCE]
        likeness = unit[rows] @ unit.T  # [rows, N]
        likeness[np.arange(len(rows)), rows] = -np.inf
        nearest = likeness.argmax(axis=1)
        flips += int(np.unpackbits(packed[rows] ^ packed[nearest]).sum())
    return flips / len(chosen)


def _surprise(share: Float64s) -> Float64s:
    """-p log2 p, and 0 for p = 0."""
    return -share * np.log2(np.where(share > 0, share, 1.0))
