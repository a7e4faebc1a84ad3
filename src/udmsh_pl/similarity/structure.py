"""Semantic structure: what the distances of teacher features say about which images are alike.

Source: the cosine distance of deep features is *stated* (UDMSH, abstract); two half-Gaussians
around the mode of all pair distances and the thresholds are *read* from SSDH (Yang et al., IJCAI
2018); graded levels are our *reading* of "multi-similarity"; confidence weights are *read* from
CIMON (Luo et al., IJCAI 2021). Centring the teacher's features is *read* from ITQ (CVPR 2011).

Letters in shapes: N images, B of a batch, D numbers of a teacher's feature; blocks of b and c rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Levels = Literal["linear", "graded", "hard", "cosine"]

# over [0, 2]: a width of 1e-4, so that moments taken from bin centres err by less than 1e-8
BINS = 20_000
# the mode is the centre of the fullest bar of width 0.01, as in SSDH's 100 bins on [0, 1]
BINS_PER_BAR = 100


@dataclass(frozen=True)
class HalfGaussians:
    """Two half-Gaussians that meet at the mode of the distances d = 1 - cos in [0, 2]."""

    mode: float  # most frequent distance m
    sigma_left: float  # root mean square of d - m over d <= m
    sigma_right: float  # the same over d > m


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=1)


def distance_histogram(
    features: Tensor,
    block: int = 2048,
    sample: int | None = None,
    unit: Callable[[Tensor], Tensor] = _unit,
) -> Tensor:
    """Count the cosine distances of all pairs i < j, block by block: memory grows with N, not N^2.

    Args:
        features: float [N, D]; rows need not be normalised
        block: rows of a block; ``block * block`` distances are alive at once
        sample: use this many rows, drawn with a fixed seed, when N is larger (the error of a share
            p of pairs is about ``sqrt(2 p (1 - p) / sample)``); None uses all rows
        unit: turns some rows into float32 rows whose dot products are cosines; called block by
            block, so that float16 features are never all there as float32

    Returns:
        int64 [20000], pairs in each bin of width 1e-4 over [0, 2].

    Example:
        >>> counts = distance_histogram(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]))
        >>> counts.nonzero().flatten().tolist(), counts.sum().item()  # d = 0 once, d = 1 twice
        ([0, 10000], 3)
    """
    if sample is not None and sample < len(features):
        rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:sample]
        features = features[rows.sort().values]
    counts = torch.zeros(BINS, dtype=torch.int64)
    for start in range(0, len(features), block):
        rows = unit(features[start : start + block])  # [b, D]
        for other in range(start, len(features), block):
            cosine = rows @ unit(features[other : other + block]).T  # [b, c]
            if other == start:  # a block with itself: i < j only, [b (b - 1) / 2]
                cosine = cosine[tuple(torch.triu_indices(len(rows), len(rows), offset=1))]
            bins = ((1 - cosine.flatten()) * (BINS / 2)).clamp_(0, BINS - 1).int()
            counts += torch.bincount(bins, minlength=BINS).cpu()
    return counts


def half_gaussians_of_histogram(counts: Tensor) -> HalfGaussians:
    """Mode and one-sided spreads of a histogram from :func:`distance_histogram`.

    Raises ``ValueError``: the histogram is empty (fewer than two images).

    Example:
        >>> counts = torch.zeros(BINS, dtype=torch.int64)
        >>> counts[[9_000, 10_000, 12_000]] = torch.tensor([1, 8, 1])  # d = 0.9, 1.0 and 1.2
        >>> found = half_gaussians_of_histogram(counts)
        >>> round(found.mode, 3), round(found.sigma_left, 3), round(found.sigma_right, 3)
        (1.005, 0.035, 0.195)
    """
    if not int(counts.sum()):
        raise ValueError("the semantic structure needs at least two train images")
    width = 2 / BINS
    fullest = int(counts.view(-1, BINS_PER_BAR).sum(1).argmax())  # of 200 bars
    # the bar's centre is an edge of fine bins: an exact split
    edge = fullest * BINS_PER_BAR + BINS_PER_BAR // 2
    mode = edge * width
    squares = counts.double() * ((torch.arange(BINS) + 0.5) * width - mode).square()
    left, right = counts[:edge].sum().clamp_min(1), counts[edge:].sum().clamp_min(1)
    return HalfGaussians(
        mode=mode,
        sigma_left=max(math.sqrt(float(squares[:edge].sum() / left)), width),
        sigma_right=max(math.sqrt(float(squares[edge:].sum() / right)), width),
    )


def fit_half_gaussians(
    features: Tensor, block: int = 2048, sample: int | None = None
) -> HalfGaussians:
    """Fit SSDH's two half-Gaussians to the distances that :func:`distance_histogram` counts.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = fit_half_gaussians(torch.randn(200, 16, generator=generator))
        >>> 0.9 < found.mode < 1.1  # random directions are orthogonal
        True
    """
    return half_gaussians_of_histogram(distance_histogram(features, block, sample))


class SemanticStructure(nn.Module):
    """Thresholds fitted on the train set: distances become similarities S and confidences w.

    Everything fitted is a buffer, so that a checkpoint holds it.

    Args:
        dims: length of each teacher's features; several teachers' cosine distances are averaged
        alpha: surely similar below ``d_s = m - alpha * sigma_left`` (2 in SSDH)
        beta: surely dissimilar above ``d_d = m + beta * sigma_right`` (2 in SSDH)
        levels: ``linear`` (cos = 1 - d: +1 at distance 0 and 0 at right angles, no two distances
            level), ``graded`` (a line from +1 at d_s to -1 at d_d), ``hard`` (SSDH: +1, 0, -1) or
            ``cosine`` (2 cos - 1)
        confidence: weight pairs by CIMON's confidence instead of 1 (with ``hard`` levels, undecided
            pairs weigh 0)
        centre: subtract the train mean from the teacher's features
        sample: rows used for the fit when the train set is larger; None uses every pair

    Example:
        >>> structure = SemanticStructure(dims=[16])
        >>> _ = structure.fit(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)))
        >>> near, far = structure.similar_below, structure.dissimilar_above
        >>> distances = torch.tensor([0.0, near, (near + far) / 2, far, 2.0])
        >>> [round(s, 2) + 0.0 for s in structure.similarity(distances).tolist()]
        [1.0, 1.0, 0.0, -1.0, -1.0]
    """

    mean: Tensor
    thresholds: Tensor

    def __init__(
        self, dims: Sequence[int], alpha: float = 2.0, beta: float = 2.0, levels: Levels = "graded",
        confidence: bool = False, centre: bool = True, sample: int | None = 20_000,
    ) -> None:  # fmt: skip
        super().__init__()
        self.alpha, self.beta, self.levels, self.confidence = alpha, beta, levels, confidence
        self.dims, self.centre, self.sample = tuple(dims), centre, sample
        self.register_buffer("mean", torch.zeros(sum(dims)))
        self.register_buffer("thresholds", torch.tensor([0.5, 0.1, 0.1], dtype=torch.float64))
        self._fitted: HalfGaussians | None = None  # thresholds as numbers: a GPU is asked once

    @property
    def half_gaussians(self) -> HalfGaussians:
        """The fitted (mode, sigma_left, sigma_right)."""
        if self._fitted is None:
            self._fitted = HalfGaussians(*self.thresholds.tolist())
        return self._fitted

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take a mean of any length: 0.2 fitted structures to other features."""
        self.mean = torch.zeros_like(state.get(f"{prefix}mean", self.mean), device=self.mean.device)
        super()._load_from_state_dict(state, prefix, *others)
        self._fitted = None

    def load_fitted(self, state: Mapping[str, Tensor]) -> None:
        """Take over ``mean`` and ``thresholds`` of ``state``, in the precision of the fit."""
        device = self.mean.device
        self.mean, self.thresholds = (
            state[name].clone().to(device) for name in ("mean", "thresholds")
        )
        self._fitted = None

    @property
    def similar_below(self) -> float:
        """d_s: pairs nearer than this are surely similar."""
        return self.half_gaussians.mode - self.alpha * self.half_gaussians.sigma_left

    @property
    def dissimilar_above(self) -> float:
        """d_d: pairs farther than this are surely dissimilar."""
        return self.half_gaussians.mode + self.beta * self.half_gaussians.sigma_right

    def fit(self, features: Tensor) -> Tensor:
        """Fit mean and half-Gaussians on ``features [N, D]``; returns the distance histogram."""
        if self.centre:
            self.mean.copy_(features.mean(0, dtype=torch.float32))
        histogram = distance_histogram(features, sample=self.sample, unit=self.unit)
        fitted = half_gaussians_of_histogram(histogram)
        numbers = [fitted.mode, fitted.sigma_left, fitted.sigma_right]
        self.thresholds.copy_(torch.tensor(numbers, dtype=torch.float64))
        self._fitted = None
        return histogram

    def unit(self, features: Tensor) -> Tensor:
        """Teacher features ``[B, D]``, centred; dot products are cosines averaged over teachers."""
        # [B, dims[t]] of each teacher t; the root makes the product of two rows the mean cosine
        parts = torch.split(features.float() - self.mean, list(self.dims), dim=1)
        units = torch.cat([nn.functional.normalize(part, dim=1) for part in parts], dim=1)
        return units / math.sqrt(len(parts))

    def distances(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Cosine distances ``[B, B]`` of teacher features ``[B, D]``, or of each teacher's own
        ``[B, dims[t]]``.

        Products are divided by lengths, not features before they are multiplied: that is less work,
        since features are longer than a batch.
        """
        dims = list(self.dims)
        parts = torch.split(features, dims, dim=1) if isinstance(features, Tensor) else features
        total = torch.zeros((), device=self.mean.device)
        for part, mean in zip(parts, torch.split(self.mean, dims), strict=True):
            centred = part.float() - mean  # [B, dims[t]]
            products = centred @ centred.T
            lengths = products.diagonal().sqrt().clamp_min(1e-12)
            total = total + products / lengths / lengths[:, None]
        return 1 - total / len(dims)

    def similarity(self, distances: Tensor) -> Tensor:
        """S in [-1, 1], same shape as ``distances``; S never rises with the distance."""
        if self.levels == "linear":
            return 1 - distances
        if self.levels == "cosine":
            return 1 - 2 * distances
        near, far = self.similar_below, self.dissimilar_above
        if self.levels == "hard":
            return (distances <= near).float() - (distances >= far).float()
        return (1 - 2 * (distances - near) / (far - near)).clamp(-1, 1)

    def weight(self, distances: Tensor) -> Tensor:
        """Confidence w, 0 at the mode, 1 at the ends; without ``confidence`` 1, if ``hard`` |S|."""
        if not self.confidence:
            hard = self.levels == "hard"
            return self.similarity(distances).abs() if hard else torch.ones_like(distances)
        fitted = self.half_gaussians
        spread = torch.where(distances <= fitted.mode, fitted.sigma_left, fitted.sigma_right)
        # both sides of CIMON's formula are the half-Gaussian's mass between the mode and d over the
        # side's whole mass
        return torch.erf((distances - fitted.mode).abs() / (spread * math.sqrt(2)))
