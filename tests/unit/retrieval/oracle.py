"""Definitions written out, every order of tied items one by one: slow and independent."""

import itertools

import numpy as np

from udmsh_pl.retrieval import pack_codes


def random_case(
    queries: int, items: int, bits: int, labels: int, seed: int = 0, share: float = 0.2
):
    """Random packed codes and bool labels: the first four arguments of ``evaluate_codes``."""
    rng = np.random.default_rng(seed)
    codes = [pack_codes(rng.random((n, bits)) < 0.5) for n in (queries, items)]
    return (*codes, *(rng.random((n, labels)) < share for n in (queries, items)))


def hamming(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Distances [Q, N] of packed codes."""
    return np.unpackbits(queries[:, None] ^ database[None], axis=2).sum(axis=2).astype(int)


def shared(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Number of labels in common, [Q, N]."""
    return queries.astype(int) @ database.T.astype(int)


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


def wap(ranking, grade: np.ndarray, k: int, denominator: str) -> float:
    """Weighted AP@k of one ranking: AP with the mean grade so far in place of the precision."""
    hits, gain, total = 0, 0, 0.0
    for place, item in enumerate(ranking[:k], start=1):
        gain += grade[item]
        if grade[item]:
            hits += 1
            total += gain / place
    everything = int((grade > 0).sum())
    den = {"retrieved": hits, "min": min(k, everything), "total": everything}[denominator]
    return total / den if den else 0.0


def ndcg(ranking, grade: np.ndarray, k: int) -> float:
    """NDCG@k of one ranking."""

    def dcg(grades) -> float:
        return sum((2.0**g - 1) / np.log2(place + 1) for place, g in enumerate(grades[:k], start=1))

    best = dcg(sorted(grade, reverse=True))
    return dcg([grade[item] for item in ranking]) / best if best else 0.0
