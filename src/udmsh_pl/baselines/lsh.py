"""LSH: signs of random projections (Charikar, STOC 2002), on centred features."""

import numpy as np

from udmsh_pl.baselines.base import Float32s, ShallowHash


class LSH(ShallowHash):
    """Random hyperplanes through the mean of the train features."""

    learned = ("mean", "directions")

    def fit(self, features: Float32s) -> None:
        """Draw K Gaussian directions; only the mean is learned."""
        self.mean = features.mean(0)
        generator = np.random.default_rng(self.seed)
        self.directions = generator.standard_normal((features.shape[1], self.bits)).astype(
            np.float32
        )

    def project(self, features: Float32s) -> Float32s:
        """``(x - mean) W``."""
        return np.asarray((features - self.mean) @ self.directions)
