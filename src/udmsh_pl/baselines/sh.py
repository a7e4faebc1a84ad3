"""SH: signs of eigenfunctions along principal components (Weiss, Torralba & Fergus, NIPS 2008)."""

import numpy as np

from udmsh_pl.baselines.base import Float32s, ShallowHash, principal_directions


class SH(ShallowHash):
    """Spectral hashing; no random choice, so every seed gives the same codes.

    The data are taken as uniform on a box along the first ``min(K, D)`` principal components. There
    the graph Laplacian's eigenfunctions are ``sin(pi/2 + m pi x / range)``, one component x and one
    mode m = 1, 2, ... at a time, with eigenvalues that grow with ``(m pi / range)^2``; the K
    smallest give the K bits, so a wide component gives several bits.

    Source: *stated* (the three steps of the algorithm). The box runs from the smallest to the
    largest train value: *read* from the authors' code, which computes the 5th and 95th percentile
    and then overwrites both.
    """

    learned = ("mean", "directions", "low", "components", "frequencies")

    def fit(self, features: Float32s) -> None:
        """Learn mean, principal directions, box and the K modes from features ``[N, D]``."""
        self.mean = features.mean(0)
        count = min(self.bits, features.shape[1])
        self.directions = principal_directions(features - self.mean, count)
        along = self._along(features)
        self.low = along.min(0)
        ranges = np.maximum(along.max(0) - self.low, np.finfo(np.float32).tiny).astype(np.float64)
        modes = np.arange(1, self.bits + 1)
        frequencies = modes[:, None] * np.pi / ranges  # [mode, component]
        smallest = np.argsort(frequencies, axis=None, kind="stable")[: self.bits]
        self.components = smallest % len(ranges)
        self.frequencies = frequencies.ravel()[smallest].astype(np.float32)

    def project(self, features: Float32s) -> Float32s:
        """The eigenfunctions' values, float32 ``[N, K]`` in [-1, 1]."""
        offsets = self._along(features)[:, self.components] - self.low[self.components]
        phases = np.float32(np.pi / 2) + offsets * self.frequencies
        return np.asarray(np.sin(phases), dtype=np.float32)

    def _along(self, features: Float32s) -> Float32s:
        return np.asarray((features - self.mean) @ self.directions)
