"""SGH: bits learned one by one on a graph that is never built (Jiang & Li, IJCAI 2015)."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from udmsh_pl.baselines.base import Float32s, ShallowHash
from udmsh_pl.errors import InputError
from udmsh_pl.similarity.manifold import unit_rows

Float64s = NDArray[np.float64]


class SGH(ShallowHash):
    """Scalable graph hashing with feature transformation: ``min || K S - B B' ||_F^2``,
    ``B = sign(k(X) W)``.

    *Stated*: ``S_ij = 2 exp(-||x_i - x_j||^2 / rho) - 1`` with rho = 2, replaced by ``P Q'``
    through ``e^t ~ sinh(1) t + cosh(1)`` on [-1, 1]; k(x) are Gaussian kernels on m random train
    images, centred; W is learned bit by bit as the leading generalised eigenvector of ``k' R k``
    and ``k' k``, R being what the other bits leave of K S. *Read* in the authors' code: m = 300,
    the mean squared distance as bandwidth, 1e-6 on the diagonal, and one more sweep that learns
    each bit anew. *Ours*: features are scaled to length 1, so that t lies in [-1, 1]; the second
    sweep goes in order.

    Args:
        bits: code length K
        seed: decides the anchors
        anchors: m, at most the train images there are
    """

    learned = ("centres", "bandwidth", "mean", "weights")
    ridge = 1e-6

    def __init__(self, bits: int = 64, seed: int = 0, anchors: int = 300) -> None:
        super().__init__(bits, seed)
        if anchors < 2:
            raise InputError(f"SGH has {anchors} anchors; give at least 2")
        self.anchors = anchors

    def fit(self, features: Float32s) -> None:
        """Learn anchors, bandwidth, mean and W ``[m, K]`` from train features ``[N, D]``."""
        unit = unit_rows(features)
        rows = np.random.default_rng(self.seed).permutation(len(unit))[: self.anchors]
        self.centres = unit[rows]
        distances = self._squared_distances(unit)
        self.bandwidth = max(float(distances.mean()), float(np.finfo(np.float32).tiny))
        kernel = np.exp(-distances / (2 * self.bandwidth))
        self.mean = kernel.mean(0)
        self.weights = self._sequential((kernel - self.mean).astype(np.float64), unit)

    def project(self, features: Float32s) -> Float32s:
        """``k(x) W``, float32 ``[N, K]``."""
        kernel = np.exp(-self._squared_distances(unit_rows(features)) / (2 * self.bandwidth))
        return np.asarray((kernel - self.mean) @ self.weights, dtype=np.float32)

    def _sequential(self, kernel: Float64s, unit: Float32s) -> Float64s:
        left = kernel.T @ unit.astype(np.float64)
        ones = kernel.sum(0)
        damped = math.exp(-1)  # exp(-|x|^2 / rho) exp(-|y|^2 / rho)
        # k' P Q' k of P Q' = 2 (sinh(1) x.y + cosh(1)) exp(-1) - 1
        constant = 2 * damped * math.cosh(1) - 1
        similarity = 2 * damped * math.sinh(1) * left @ left.T + constant * np.outer(ones, ones)
        residue = self.bits * similarity
        metric = kernel.T @ kernel + self.ridge * np.eye(kernel.shape[1])
        weights = np.zeros((kernel.shape[1], self.bits))
        last = kernel.shape[1] - 1
        for sweep in range(2):
            for bit in range(self.bits):
                if sweep:
                    taken = kernel.T @ _signs(kernel @ weights[:, bit])
                    residue = residue + np.outer(taken, taken)
                weights[:, bit] = eigh(residue, metric, subset_by_index=(last, last))[1][:, 0]
                taken = kernel.T @ _signs(kernel @ weights[:, bit])
                residue = residue - np.outer(taken, taken)
        return weights

    def _squared_distances(self, unit: Float32s) -> Float32s:
        return np.asarray(np.maximum(2 - 2 * unit @ self.centres.T, 0))


def _signs(values: Float64s) -> Float64s:
    return np.where(values >= 0, 1.0, -1.0)
