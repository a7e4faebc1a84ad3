"""LSH: signs of random projections (Charikar, STOC 2002), on centred features."""

import numpy as np

from udmsh_pl.baselines.base import Float32s, LinearHash


class LSH(LinearHash):
    """Random hyperplanes through the mean of the train features."""

    def fit(self, features: Float32s) -> None:
        """Draw K Gaussian directions; only the mean is learned."""
        self.mean = features.mean(0)
        drawn = np.random.default_rng(self.seed).standard_normal((features.shape[1], self.bits))
        self.directions = drawn.astype(np.float32)
