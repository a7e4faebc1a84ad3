"""SpH: inside or outside of K balanced, pairwise independent spheres (Heo et al., CVPR 2012)."""

import numpy as np

from udmsh_pl.baselines.base import Float32s, ShallowHash
from udmsh_pl.errors import InputError


class SpH(ShallowHash):
    """Spherical hashing: bit k is +1 inside the sphere with pivot p_k and radius t_k.

    *Stated*: each sphere holds half of the points, each two share a quarter. Radii are the median
    distances; pivots move by forces ``f_ij = 1/2 (o_ij - m/4) / (m/4) (p_i - p_j)``, averaged over
    j, until the counts o_ij deviate from m/4 by at most 10 % on average and spread by at most 15 %.
    *Read*: pivots start as means of a few random points. *Ours*: the limit of iterations; codes are
    ranked by Hamming distance, not by the paper's spherical one, because every method here is
    ranked alike.

    Args:
        bits: code length K
        seed: decides the sample and the first pivots
        sample: m, train rows that the iteration sees
        iterations: at most this many moves of the pivots
    """

    learned = ("pivots", "squared_radii")
    mean_tolerance, spread_tolerance = 0.10, 0.15
    points_a_pivot = 5

    def __init__(
        self, bits: int = 64, seed: int = 0, sample: int = 10_000, iterations: int = 300
    ) -> None:
        super().__init__(bits, seed)
        if sample < 4 or iterations < 1:
            given = f"sample {sample}, iterations {iterations}"
            raise InputError(f"SpH has {given}; give at least 4 and 1")
        self.sample, self.iterations = sample, iterations

    def fit(self, features: Float32s) -> None:
        """Learn pivots ``[K, D]`` and squared radii ``[K]`` from train features ``[N, D]``."""
        generator = np.random.default_rng(self.seed)
        points = features[np.sort(generator.permutation(len(features))[: self.sample])]
        chosen = generator.integers(len(points), size=(self.bits, self.points_a_pivot))
        self.pivots = points[chosen].mean(1)
        for _ in range(self.iterations):
            shared = self._shared(points)
            pairs = shared[~np.eye(self.bits, dtype=bool)]
            if self.bits == 1 or (
                np.abs(pairs - 1).mean() <= self.mean_tolerance
                and pairs.std() <= self.spread_tolerance
            ):
                return
            push = 0.5 * (shared - 1)  # the diagonal pushes along p_i - p_i = 0
            moves = push.sum(1, keepdims=True) * self.pivots - push @ self.pivots
            self.pivots = self.pivots + moves / self.bits
        self._shared(points)

    def project(self, features: Float32s) -> Float32s:
        """``t_k^2 - ||x - p_k||^2``, float32 ``[N, K]``, positive inside."""
        return np.asarray(self.squared_radii - self._squared_distances(features))

    def _shared(self, points: Float32s) -> Float32s:
        """Set the radii; give how many points each two spheres share, over m/4: ``[K, K]``."""
        distances = self._squared_distances(points)
        self.squared_radii = np.median(distances, axis=0)
        inside = (distances <= self.squared_radii).astype(np.float32)
        return np.asarray(inside.T @ inside / (len(points) / 4))

    def _squared_distances(self, features: Float32s) -> Float32s:
        cross = features @ self.pivots.T
        squares = np.square(features).sum(1, keepdims=True) + np.square(self.pivots).sum(1)
        return np.asarray(np.maximum(squares - 2 * cross, 0))
