"""Definitions written out: every order of tied items, one by one. Slow, and independent of the package."""

import itertools

import numpy as np


def hamming(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Distances [Q, N] of unpacked codes, bool or -1/+1."""
    return (queries[:, None, :] != database[None, :, :]).sum(axis=2)


def orders(distance: np.ndarray):
    """Every ranking of items that is sorted by distance."""
    groups = [np.flatnonzero(distance == d).tolist() for d in np.unique(distance)]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [item for part in parts for item in part]


def ap(ranking, relevant: np.ndarray, k: int, denominator: str) -> float:
    """AP@k of one ranking."""
    hits, total = 0, 0.0
    for place, item in enumerate(ranking[:k], start=1):
        if relevant[item]:
            hits += 1
            total += hits / place
    everything = int(relevant.sum())
    den = {"retrieved": hits, "min": min(k, everything), "total": everything}[denominator]
    return total / den if den else 0.0
