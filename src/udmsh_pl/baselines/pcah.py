"""PCAH: signs of the leading principal components (Wang et al., TPAMI 2012)."""

from udmsh_pl.baselines.base import Float32s, LinearHash, principal_directions


class PCAH(LinearHash):
    """Principal component hashing; no random choice, so every seed gives the same codes."""

    def fit(self, features: Float32s) -> None:
        """Learn the mean and K principal directions."""
        self.mean = features.mean(0)
        self.directions = principal_directions(features - self.mean, self.bits)
