"""PCAH: signs of the leading principal components (Wang et al., TPAMI 2012)."""

import numpy as np

from udmsh_pl.baselines.base import Float32s, ShallowHash, principal_directions


class PCAH(ShallowHash):
    """Principal component hashing; no random choice, so every seed gives the same codes."""

    learned = ("mean", "directions")

    def fit(self, features: Float32s) -> None:
        """Learn the mean and K principal directions."""
        self.mean = features.mean(0)
        self.directions = principal_directions(features - self.mean, self.bits)

    def project(self, features: Float32s) -> Float32s:
        """``(x - mean) W``."""
        return np.asarray((features - self.mean) @ self.directions)
