"""ITQ: principal components, rotated until they are nearest to their signs (Gong & Lazebnik, CVPR
2011).
"""

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
        generator = np.random.default_rng(self.seed)
        start, _ = np.linalg.qr(generator.standard_normal((self.bits, self.bits)))
        turned = self.project(features) @ start.astype(np.float32)
        rotation = best_rotation(torch.from_numpy(turned), self.iterations).numpy()
        self.directions = self.directions @ start.astype(np.float32) @ rotation
