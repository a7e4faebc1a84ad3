"""Random splits that a seed decides: the same rows on every machine and in every process."""

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError

Rows = NDArray[np.int64]


def _shuffled(generator: np.random.PCG64, rows: Rows) -> Rows:
    # NumPy promises the raw stream of a bit generator for ever, but not what permutation() makes of
    # it.
    shuffled: Rows = rows[np.argsort(generator.random_raw(len(rows)), kind="stable")]
    return shuffled


def draw(rows: Rows, counts: dict[str, int], seed: int) -> dict[str, Rows]:
    """Disjoint random subsets of ``rows``, each in ascending order; ``rest`` holds what is left.

    Args:
        rows: rows to draw from, [N].
        counts: size of each subset by name.
        seed: decides the draw, together with the order of ``counts``.

    Raises:
        InputError: there are fewer rows than the subsets need.
    """
    needed = sum(counts.values())
    if needed > len(rows):
        wanted = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(
            f"the protocol draws {wanted} images, but only {len(rows)} are there; complete the "
            "data set"
        )
    order = _shuffled(np.random.PCG64(seed), np.asarray(rows, dtype=np.int64))
    ends = np.cumsum([0, *counts.values()])
    parts = {name: np.sort(order[ends[i] : ends[i + 1]]) for i, name in enumerate(counts)}
    return parts | {"rest": np.sort(order[needed:])}


def draw_per_label(labels: NDArray[np.bool_], counts: dict[str, int], seed: int) -> dict[str, Rows]:
    """Disjoint random subsets with ``count`` images *for each label*; ``rest`` holds what is left.

    An image is drawn for one label and may carry others. Labels take their turn from the rarest to
    the most frequent, so that the frequent ones do not use up the images of the rare ones.

    Args:
        labels: bool [N, L].
        counts: images per label of each subset by name, drawn in this order.
        seed: decides the draw.

    Returns:
        Ascending rows of each subset, ``count * L`` of them.

    Raises:
        InputError: a label has fewer images left than a subset needs.
    """
    generator = np.random.PCG64(seed)
    free = np.ones(len(labels), dtype=np.bool_)
    parts: dict[str, Rows] = {}
    for name, count in counts.items():
        drawn: list[Rows] = []
        for label in np.argsort(labels.sum(axis=0), kind="stable").tolist():
            candidates = np.flatnonzero(labels[:, label] & free)
            if len(candidates) < count:
                raise InputError(
                    f"the protocol draws {count} {name} images for each label, but only "
                    f"{len(candidates)} images of label {label} are left; complete the data set or "
                    "take another protocol"
                )
            drawn.append(_shuffled(generator, candidates)[:count])
            free[drawn[-1]] = False
        parts[name] = np.sort(np.concatenate(drawn))
    return parts | {"rest": np.flatnonzero(free)}
