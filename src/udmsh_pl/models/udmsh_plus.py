"""UDMSH-plus and its teacher: a student that learns groups and the order of the nearest. *Ours*."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from udmsh_pl.backbones.networks import BackboneFeatures
from udmsh_pl.errors import InputError
from udmsh_pl.features.fused import fit_fused
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.heads import FusedEncoder
from udmsh_pl.similarity.losses import (
    asymmetric_pairwise_loss,
    at_least_float32,
    nt_xent_loss,
    quantisation_loss,
    ranking_loss,
)
from udmsh_pl.similarity.manifold import (
    diffused_levels,
    group_count,
    nearest_neighbours,
    neighbour_graph,
    neighbour_trust,
    unit_rows,
)

NEAR_RANK, NEAR_TIME = 256, 2.0  # of the short diffusion (docs/choices.md)
FEW, MANY = 12, 37  # groups: up to FEW the groups matter most, from MANY on the nearest images
COARSE, FINE = 0.2, 0.15  # temperatures of codes in the ranking loss, for FEW and MANY groups
SHORT, LONG, FINEST = 64, 128, 0.12  # FINE holds up to SHORT bits and falls to FINEST at LONG bits
NEAREST = 3  # nearest images of each image that a batch may show beside it


@dataclass(frozen=True)
class ManifoldSettings:
    """Settings of the fused feature and the teacher; see :class:`UDMSHPlus`."""

    teacher: Literal["manifold", "cosine"] = "manifold"
    with_map: bool = True
    dims: int = 512
    neighbours: int = 30
    edge_power: float = 3.0
    rank: int = 128
    diffusion_time: float | None = None
    near_share: float = 0.5
    view_discount: float = 0.0


def fit_manifold_teacher(stored: Arrays, settings: ManifoldSettings) -> dict[str, Tensor]:
    """Fit the fused feature and the levels of similarity to train features.

    Where there are views, directions in which an image differs from its own views count less in the
    fused feature (``view_discount``), and so in the order of the nearest. Diffusion runs on the
    graph of the features before the discount, which keeps large groups together. If its neighbours
    have less than full trust (:func:`udmsh_pl.similarity.manifold.neighbour_trust`), the discounted
    features make the graph.

    Returns:
        ``fusion.*``, buffers of the :class:`FusedFeature`; ``inputs``, float16
        ``[N, 1 + V, dims]``, fused features of the images and their views; ``targets``, float32
        ``[N, R]``, whose inner products are the diffused part of the similarity: the long diffusion
        times ``1 - near_share`` and the short one times ``near_share / 2`` (the rest of it is the
        cosine of ``inputs``); ``nearest``, long ``[N, 3]``, the rows most like each by that cosine.
    """
    fusion, plain, shown = fit_fused(
        stored, settings.with_map, settings.dims, settings.view_discount
    )
    unit, near = (unit_rows(rows.float().numpy()) for rows in (plain, shown[:, 0]))
    targets, nearest = _levels(unit, near, settings)
    found = {"targets": torch.from_numpy(targets), "nearest": torch.from_numpy(nearest)}
    return {**fusion.state_dict(prefix="fusion."), "inputs": shown, **found}


def _levels(
    unit: NDArray[np.float32], near: NDArray[np.float32], settings: ManifoldSettings
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``targets [N, R]`` and ``nearest [N, 3]`` of fused features of length 1."""
    count, share = len(unit), settings.near_share
    k = max(1, min(NEAREST, count - 1))  # of two images each has one
    nearest = nearest_neighbours(near, k)[1][:, np.arange(NEAREST).clip(max=k - 1)]
    nearest = np.where(nearest >= 0, nearest, np.arange(count)[:, None])
    if settings.teacher == "cosine":
        return near * np.float32((1 - share / 2) ** 0.5), nearest
    trust = neighbour_trust(unit, settings.neighbours)
    if trust < 1:  # a backbone with hubs: the views make the better graph
        unit, trust = near, neighbour_trust(near, settings.neighbours)
    graph = neighbour_graph(unit, settings.neighbours, settings.edge_power)
    far, short = (settings.rank, settings.diffusion_time), (NEAR_RANK, NEAR_TIME)
    shares = [(level, part) for level, part in ((far, 1 - share), (short, share / 2)) if part]
    found = diffused_levels(graph, [level for level, _ in shares], trust)
    weighted = [level * part**0.5 for level, (_, part) in zip(found, shares, strict=True)]
    return np.concatenate(weighted, axis=1).astype(np.float32), nearest


def code_temperature(groups: float, bits: int) -> float:
    """Temperature of codes in the ranking loss. It falls as the number of groups and the code
    length rise; a lower temperature gives the nearest images more weight.

    Up to 64 bits: 0.2 for at most 12 groups, 0.15 for at least 37, linear between them. From 64 to
    128 bits, the value 0.15 falls linearly to 0.12. *Ours* (docs/choices.md).

    Example:
        >>> [round(code_temperature(groups, 64), 3) for groups in (5, 12, 24.5, 37, 69)]
        [0.2, 0.2, 0.175, 0.15, 0.15]
        >>> [round(code_temperature(37, bits), 3) for bits in (16, 96, 128, 256)]
        [0.15, 0.135, 0.12, 0.12]
    """
    many = min(max((groups - FEW) / (MANY - FEW), 0.0), 1.0)
    long = min(max((bits - SHORT) / (LONG - SHORT), 0.0), 1.0)
    return COARSE + many * (FINE + long * (FINEST - FINE) - COARSE)


@dataclass(kw_only=True, eq=False, repr=False)
class UDMSHPlus(HashingModule):
    """UDMSH's idea, pairwise similarities with semantic structure and codes that keep their
    geometry, in *our* form.

    The teacher gives two things. The group of an image: the cosine after a long diffusion over the
    train images' neighbour graph (:mod:`udmsh_pl.similarity.manifold`), which inner products of
    codes learn by squared errors. And the order of the nearest: the cosine of the fused features,
    which codes learn as a ranking, since that order hardly changes the squared errors. An image's
    random views (``--data.views``) show which directions of the features count for it. Batches hold
    near images, since of the pairs of a random batch hardly any is near. The student adds a head to
    a linear path that starts as ITQ of the fused features. Where there are views, it sees a random
    point between the image and one of its views. Its loss mixes inner products of relaxed codes
    with relaxed codes and with signs. Codes of two views of an image shall be nearer to each other
    than to those of images that are not similar (NT-Xent, as SimCLR and CIBHash have it), at a
    small weight. The quantisation loss is that of SDC. The combination is *ours*.

    Args:
        hidden: width of the head
        learning_rate: Adam's, for the head
        weight_decay: Adam's (decoupled), 0 for none
        warmup_steps: steps over which the learning rate rises to its value
        cosine_decay: let the learning rate fall to 0 along half a cosine over the training
        teacher: ``manifold``, or ``cosine`` of the fused features themselves
        use_views: learn from the cached views too where there are any
        dims: principal axes of the fused feature
        dropout: share of the head's hidden units left out in training
        neighbours: k of the neighbour graph; at most a quarter of the train images
        edge_power: an edge weighs its cosine to this power
        rank: eigenvectors of the diffusion; at most a quarter of the train images
        diffusion_time: how far similarity spreads; None for
            :func:`udmsh_pl.similarity.manifold.diffused_embedding`'s rule
        near_share: share of two finer similarities, half of it each: the cosine after a short
            diffusion and the cosine of fused features
        ranking_weight: weight of :func:`udmsh_pl.similarity.losses.ranking_loss` against the cosine
            of the fused features; larger orders near images better and far ones worse
        view_discount: how far directions in which an image differs from its own views count less
            (:meth:`udmsh_pl.models.heads.FusedFeature.discount_views`); 0 not at all
        companions: images, 0 to 3, that join an image in a batch, drawn from its nearest (3: they
            are three quarters of the batch). 0, or a backbone that is trained, leaves batches as
            they are shuffled
        linear_path: let the codes start as ITQ of the fused features
        code_temperature: of the codes in the ranking loss; smaller orders near images better and
            far ones worse. None: :func:`code_temperature` of the code length and the number of
            groups that the teacher sees
        quantisation_weight: weight of :func:`udmsh_pl.similarity.losses.quantisation_loss`
        contrastive_weight: weight of NT-Xent between two views of half of the images, where there
            are views and the backbone is not trained; a pair counts less as a negative as its
            similarity rises, and not at all from 0.5 on
        code_share: share of the loss's inner products that are between a relaxed code and a code
        least_weight: a pair weighs this plus the size of its similarity, so that the few pairs of a
            small group count among the many that have nothing in common; None weighs all pairs
            alike
    """

    fuses: ClassVar[bool] = True

    hidden: int = 2048
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    cosine_decay: bool = True
    teacher: Literal["manifold", "cosine"] = "manifold"
    use_views: bool = True
    dims: int = 512
    dropout: float = 0.3
    neighbours: int = 30
    edge_power: float = 3.0
    rank: int = 128
    diffusion_time: float | None = None
    near_share: float = 0.0
    ranking_weight: float = 0.1
    view_discount: float = 1.0
    companions: int = 3
    linear_path: bool = True
    code_temperature: float | None = None
    quantisation_weight: float = 0.5
    contrastive_weight: float = 0.06
    code_share: float = 0.5
    least_weight: float | None = 0.1

    def __post_init__(self) -> None:
        for name in ("ranking_weight", "quantisation_weight", "contrastive_weight"):
            self.check_range(name)
        for name in ("diffusion_time", "least_weight"):
            self.check_range(name, optional=True)
        for name, most in (("near_share", 1), ("view_discount", 1), ("companions", NEAREST)):
            self.check_range(name, most)
        if self.code_temperature is not None and self.code_temperature <= 0:
            mend = "give --model.code_temperature a number above 0, or null"
            raise InputError(f"code_temperature is {self.code_temperature}; {mend}")
        if self.fused:
            problem = f"{type(self).__name__} reads the fused feature in any case"
            raise InputError(f"{problem}; leave --model.fused out")
        super().__post_init__()
        self.temperature = self.code_temperature or COARSE

    def build_encoder(self) -> FusedEncoder:
        """The fused feature and its head; ``branches`` other than ``global`` use the map too."""
        map_dim = 0 if self.branches == "global" else self.backbone_info.map_channels * self.grid**2
        encoder = FusedEncoder(
            self.backbone_info.global_dim, map_dim, self.bits, self.hidden, self.dims, self.dropout
        )
        encoder.direct.requires_grad_(self.linear_path)
        return encoder

    @property
    def used_features(self) -> tuple[int, ...]:
        """The fused feature always has the global one in it."""
        return (0,) if self.branches == "global" else (0, 1)

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """As in the base, the map averaged to the grid that the fused feature was fitted on."""
        features = super().backbone_features(image)
        pooled = torch.nn.functional.adaptive_avg_pool2d(features.feature_map, self.grid)
        return features._replace(feature_map=pooled)

    # the teacher

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """:func:`fit_manifold_teacher`, which depends on neither code length nor seed."""
        settings = ManifoldSettings(
            self.teacher, self.branches != "global", self.dims, self.neighbours, self.edge_power,
            self.rank, self.diffusion_time, self.near_share,
            self.view_discount if self.use_views else 0.0,
        )  # fmt: skip
        return features.teacher("udmsh-plus", settings, fit_manifold_teacher)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fused feature and the number of groups; codes start as ITQ of the fused
        feature.
        """
        self.encoder.load_fusion(state)
        if self.code_temperature is None:
            groups = group_count(state["targets"].numpy())
            self.temperature = code_temperature(groups, self.bits)
        if self.linear_path:
            self.encoder.start_from_itq(state["inputs"][:, 0])

    def train_rows(self, features: TrainFeatures) -> Rows:
        """Fused features of the images and their views, and the teacher's ``targets``."""
        state = self.fit_teacher(features)
        inputs, targets = state["inputs"].numpy(), state["targets"].numpy()
        if self.finetune:
            return {"clean": inputs[:, 0], "targets": targets}
        return {"pictures": inputs if self.use_views else inputs[:, :1], "targets": targets}

    def near_images(self, features: TrainFeatures) -> tuple[NDArray[np.int64], int] | None:
        """The three nearest of each image; ``companions`` of them are shown beside it."""
        if self.finetune:
            return None
        return self.fit_teacher(features)["nearest"].numpy(), self.companions

    def teach(self, batch: Batch) -> Batch:
        """Add ``nearness``, cosines of fused features, and ``similarity`` to learn, ``[B, B]``."""
        unit = normalize(batch["clean"].float(), dim=1)
        nearness, targets = unit @ unit.T, batch["targets"].float()
        similarity = targets @ targets.T
        if self.near_share:
            similarity = similarity + self.near_share / 2 * nearness
        return batch | {"nearness": nearness, "similarity": similarity}

    # the student

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Pairwise loss on similarities, ranking loss on nearness, quantisation loss and, where the
        backbone is frozen, NT-Xent on views.
        """
        similarity, rows = batch["similarity"], batch["index"]
        compared: list[Tensor] = []
        if self.finetune:
            logits = self.logits(batch)
        else:
            views = batch.get("compared", ()) if self.contrastive_weight else ()
            seen = [self._between(batch), *views]
            with self.network_precision():
                logits = self.encoder.head_logits(torch.cat(seen))
            logits, *compared = torch.split(at_least_float32(logits), [*map(len, seen)])
        u = torch.tanh(logits)
        self.log_codes(u)
        weight = None if self.least_weight is None else self.least_weight + similarity.abs()
        terms = {"pairwise": asymmetric_pairwise_loss(u, similarity, self.code_share, weight)}
        if self.ranking_weight:
            same = rows[:, None] == rows  # a near image may come twice
            ranking = ranking_loss(
                u, batch["nearness"], code_temperature=self.temperature, left_out=same
            )
            terms["ranking"] = self.ranking_weight * ranking
        if self.quantisation_weight:
            terms["quantisation"] = self.quantisation_weight * quantisation_loss(logits)
        if compared:
            first, second = map(torch.tanh, compared)
            half = len(first)
            apart = (1 - 2 * similarity[:half, :half]).clamp(0, 1)
            contrast = nt_xent_loss(first, second, apart=apart)
            terms["contrastive"] = self.contrastive_weight * contrast
        return terms

    def _between(self, batch: Batch) -> Tensor:
        """A random point between each image and its ``shown`` picture, ``[B, dims]``; outside
        training, or without ``use_views``, the picture itself.
        """
        shown: Tensor = batch["shown"]
        if not self.training or not self.use_views:
            return shown
        share = torch.rand(len(shown), 1, device=shown.device)
        return torch.lerp(batch["clean"], shown, share)
