"""ITQ: principal components, rotated until nearest to their signs (Gong & Lazebnik, CVPR 2011)."""

import numpy as np
import torch

from udmsh_pl.baselines.base import Float32s
from udmsh_pl.baselines.pcah import PCAH
from udmsh_pl.similarity.losses import best_rotation


class ITQ(PCAH):
    """Iterative quantisation: 50 alternations from a random rotation, as in the paper's code."""

    iterations = 50

    def fit(self, features: Float32s) -> None:
        """Learn mean, principal directions and the rotation."""
        super().fit(features)
        drawn = np.random.default_rng(self.seed).standard_normal((self.bits, self.bits))
        start = np.linalg.qr(drawn)[0].astype(np.float32)
        projected = torch.from_numpy(self.project(features) @ start)
        rotation = best_rotation(projected, self.iterations).numpy()
        self.directions = self.directions @ start @ rotation
