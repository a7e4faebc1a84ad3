"""Losses on relaxed codes u in (-1, 1): pure functions of tensors.

Letters in shapes: B images of a batch, K bits. b = sign(u) with sign(0) = +1.

A method combines them in its own file (``models/udmsh.py``: :meth:`UDMSH.objective`).

In DDP the caller passes the global batch (see ``models/base.py``); nothing here knows of processes.
Where a sum over pairs scales a gradient, rows are added up first: a whole matrix at once would be
added up thread by thread, and the result depend on their number.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Isometry = Literal["pairwise", "pointwise", "rotation"]


def at_least_float32(values: Tensor) -> Tensor:
    """The same values as float32, or as float64 where they are that already: sums over pairs need
    it, whatever precision a network runs in.

    Example:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return values if values.dtype == torch.float64 else values.float()


def multilevel_pairwise_loss(
    u: Tensor, similarity: Tensor, weight: Tensor | None = None, other: Tensor | None = None
) -> Tensor:
    """``sum_ij w_ij (u_i.u_j / K - S_ij)^2 / sum_ij w_ij`` over pairs i != j.

    Source: *stated* in UDMSH's abstract; this form is *read* (SSDH's loss with graded levels;
    method.md section 4).

    Args:
        u: float [B, K], relaxed codes
        similarity: float [B, B], S_ij in [-1, 1]
        weight: float [B, B], confidence w_ij >= 0; None weighs all pairs alike
        other: float [B, K], what u is multiplied with; None for u itself

    Returns:
        A scalar; 0 when no pair has any weight.

    Example:
        >>> u = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # u_0.u_1 / K = 0
        >>> float(multilevel_pairwise_loss(u, torch.eye(2)))
        0.0
        >>> float(multilevel_pairwise_loss(u, torch.ones(2, 2)))
        1.0
    """
    off_diagonal = ~torch.eye(len(u), dtype=torch.bool, device=u.device)
    weight = off_diagonal.to(u.dtype) if weight is None else weight.to(u.dtype) * off_diagonal
    errors = (u @ (u if other is None else other).T / u.shape[1] - similarity.to(u.dtype)).square()
    total = weight.sum(1).sum().clamp_min(torch.finfo(u.dtype).tiny)
    return (weight * errors).sum() / total


def asymmetric_pairwise_loss(
    u: Tensor, similarity: Tensor, code_share: float = 0.5, weight: Tensor | None = None
) -> Tensor:
    """Weighted mean over i != j of ``((1 - c) u_i.u_j / K + c u_i.b_j / K - S_ij)^2``.

    c is the ``code_share``, b = sign(u) without gradient.

    Source: *ours*. With c > 0 it is a pairwise loss and an isometric mapping in one: c has no
    effect only where u_i.u_j = u_i.b_j.

    Args:
        u: float [B, K], relaxed codes
        similarity: float [B, B], S_ij in [-1, 1]
        code_share: 0 compares relaxed codes alone, 1 relaxed codes with codes alone
        weight: float [B, B], w_ij >= 0; None weighs all pairs alike

    Example:
        >>> u = torch.full((2, 4), 0.5)  # u_0.u_1 / K = 1/4, and u_0.b_1 / K = 1/2
        >>> [float(asymmetric_pairwise_loss(u, torch.ones(2, 2), share)) for share in (0.0, 1.0)]
        [0.5625, 0.25]
    """
    codes = torch.where(u >= 0, 1.0, -1.0).to(u.dtype)
    other = (1 - code_share) * u + code_share * codes.detach()
    return multilevel_pairwise_loss(u, similarity, weight, other)


def isometric_loss(
    u: Tensor, kind: Isometry = "pairwise", rotation: Tensor | None = None
) -> Tensor:
    """Hamming-isometric mapping: relaxed codes should keep the geometry of their signs.

    Source: *stated* ("Hamming-isometric mapping", reduces the quantisation error); the three forms
    are *read*: ``pairwise`` ``mean_ij (u_i.u_j - b_i.b_j)^2 / K^2`` over i != j, ``pointwise``
    ``mean || |u| - 1 ||^2 / K`` and ``rotation`` ``|| B - U R ||_F^2 / (B K)`` with an orthogonal R
    from :func:`best_rotation`. b = sign(u) has no gradient.

    Args:
        u: float [B, K]
        kind: which reading
        rotation: orthogonal [K, K] for ``rotation``; solved for this batch when None

    Example:
        >>> u = torch.full((2, 4), 0.5)  # (1/4 - 1)^2 between two rows, (1/2 - 1)^2 a number
        >>> float(isometric_loss(u)), float(isometric_loss(u, "pointwise"))
        (0.5625, 0.25)
        >>> float(isometric_loss(u.sign()))  # codes have nothing to lose
        0.0
    """
    codes = torch.where(u >= 0, 1.0, -1.0).to(u.dtype)
    if kind == "pointwise":
        return (u - codes).square().mean()
    if kind == "rotation":
        turned = u @ (best_rotation(u.detach()) if rotation is None else rotation).to(u.dtype)
        target = torch.where(turned >= 0, 1.0, -1.0).to(u.dtype)
        return (target - turned).square().mean()
    difference = (u @ u.T - codes @ codes.T) / u.shape[1]
    pairs = len(u) * (len(u) - 1)
    return (difference.square().sum() - difference.diagonal().square().sum()) / max(pairs, 1)


def best_rotation(u: Tensor, iterations: int = 10) -> Tensor:
    """Orthogonal R that brings ``u R`` nearest to its signs, by ITQ's alternation from R = I.

    Source: Gong & Lazebnik, CVPR 2011 (*stated*, but for the start).

    Args:
        u: float [N, K]
        iterations: alternations of B = sign(U R) and the Procrustes solution of R

    Example:
        >>> u = torch.tensor([[0.9, 0.1], [-0.9, -0.1], [-0.1, 0.9], [0.1, -0.9]])
        >>> rotated = u @ best_rotation(u)
        >>> before, after = (float((v - v.sign()).square().mean()) for v in (u, rotated))
        >>> round(before, 2), round(after, 2)
        (0.41, 0.13)
    """
    u = at_least_float32(u)  # there is no singular value decomposition of half precision
    rotation = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    for _ in range(iterations):
        codes = torch.where(u @ rotation >= 0, 1.0, -1.0).to(u.dtype)
        left, _, right = torch.linalg.svd(u.T @ codes)
        rotation = left @ right
    return rotation


def quantisation_loss(logits: Tensor) -> Tensor:
    """Mean over rows of ``1 - cos(z, sign(z))``, which is 0 for entries of one absolute value.

    A bit with a small logit flips easily.

    Source: *read* in SDC's official code (Ng et al., BMVC 2023), with sign(0) = +1.

    Args:
        logits: float [B, K], outputs before tanh

    Example:
        >>> abs(float(quantisation_loss(torch.tensor([[2.0, -2.0]])))) < 1e-6  # whatever their size
        True
        >>> round(float(quantisation_loss(torch.tensor([[1.0, 0.0]]))), 3)  # 1 - 1 / sqrt(2)
        0.293
    """
    codes = torch.where(logits >= 0, 1.0, -1.0).to(logits.dtype)
    return (1 - torch.cosine_similarity(logits, codes)).mean()


def ranking_loss(
    u: Tensor,
    similarity: Tensor,
    temperature: float = 0.05,
    code_temperature: float = 0.2,
    left_out: Tensor | None = None,
) -> Tensor:
    """Mean over i of ``KL(p_i || q_i)``: how near others are to i, by the teacher and by the codes.

    p_i is the softmax over j of ``S_ij / temperature``, q_i that of ``cos(u_i, u_j) /
    code_temperature``. A pairwise loss says how alike two images are, and hardly notices when two
    near ones change places; here the nearest count most.

    Source: the "fine-grained similarity ranking" is *stated* in UDMSH's abstract; this form is
    *read* from ListNet (Cao et al., ICML 2007), without the image itself, as in stochastic
    neighbour embedding (Hinton & Roweis, NIPS 2002); the temperatures are *ours*.

    Args:
        u: float [B, K], relaxed codes
        similarity: float [B, B], S_ij in [-1, 1]
        temperature: of the teacher; the smaller, the fewer images are near
        code_temperature: of the codes; the smaller, the more their order counts beside what else
            they learn
        left_out: bool [B, B], pairs that do not count; i = j never does

    Returns:
        A scalar; 0 when codes say what the teacher says.

    Example:
        >>> u = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> cosines = u @ u.T / 2
        >>> alike, upside_down = (float(ranking_loss(u, s, 0.5, 0.5)) for s in (cosines, -cosines))
        >>> abs(alike) < 1e-6, round(upside_down, 3)
        (True, 1.015)
    """
    unit = normalize(u, dim=1)
    same = torch.eye(len(u), dtype=torch.bool, device=u.device)
    apart = same if left_out is None else same | left_out
    least = torch.finfo(u.dtype).min  # not -inf: a row may have nothing but itself
    wanted = (similarity.to(u.dtype) / temperature).masked_fill(apart, least).log_softmax(1)
    said = (unit @ unit.T / code_temperature).masked_fill(apart, least).log_softmax(1)
    return (wanted.exp() * (wanted - said)).masked_fill(apart, 0).sum(1).mean()


def nt_xent_loss(
    first: Tensor, second: Tensor, temperature: float = 0.3, apart: Tensor | None = None
) -> Tensor:
    """NT-Xent of two views, with cosine similarity.

    Source: SimCLR, ICML 2020 (*stated*); temperature 0.3 as in CIBHash, IJCAI 2021; ``apart`` is
    *ours*.

    Args:
        first: float [B, K], one view
        second: float [B, K], the other view of the same images, row by row
        temperature: divides the cosines
        apart: float [B, B] in [0, 1], how much a pair counts as a negative; None: fully

    Example:
        >>> views = torch.eye(2)  # equal views of two images that have nothing in common
        >>> round(float(nt_xent_loss(views, views, temperature=1.0)), 4)  # -log(e / (e + 1 + 1))
        0.5514
    """
    both = normalize(torch.cat([first, second]), dim=1)
    logits = both @ both.T / temperature
    if apart is not None:  # the pair of an image's own views always counts
        logits = logits + apart.clone().fill_diagonal_(1).log().repeat(2, 2)
    logits = logits.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return torch.nn.functional.cross_entropy(logits, partner)
