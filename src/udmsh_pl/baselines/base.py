"""What the shallow methods share: they are fitted on an array of features, and applied to one."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError

Float32s = NDArray[np.float32]


class ShallowHash(ABC):
    """A closed-form method on backbone features.

    Args:
        bits: code length K
        seed: decides every random choice

    Attributes:
        learned: names of the attributes that :meth:`fit` sets, arrays or numbers; a model file
            holds them, and nothing else
    """

    learned: tuple[str, ...] = ()

    def __init__(self, bits: int = 64, seed: int = 0) -> None:
        if bits < 1:
            raise InputError(f"code length is {bits} bits; give a number of at least 1")
        self.bits, self.seed = bits, seed

    @abstractmethod
    def fit(self, features: Float32s) -> None:
        """Learn from train features ``[N, D]``."""

    @abstractmethod
    def project(self, features: Float32s) -> Float32s:
        """Features ``[N, D]`` -> real values ``[N, K]`` whose signs are the code."""


class LinearHash(ShallowHash):
    """A method that learns a mean ``[D]`` and directions W ``[D, K]``."""

    learned = ("mean", "directions")
    mean: Float32s
    directions: Float32s

    def project(self, features: Float32s) -> Float32s:
        """``(x - mean) W``."""
        return np.asarray((features - self.mean) @ self.directions)


def principal_directions(centred: Float32s, count: int) -> Float32s:
    """Principal directions ``[D, count]`` of centred ``[N, D]``; refuses a ``count`` above D."""
    dim = centred.shape[1]
    if count > dim:
        raise InputError(f"{count} bits need {count} principal directions; give {dim} bits at most")
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return vectors[:, ::-1][:, :count].astype(np.float32)
