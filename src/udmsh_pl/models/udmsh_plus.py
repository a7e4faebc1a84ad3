"""UDMSH-plus: the best of ours, a student that learns groups and who is nearest, from views and
near images.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import Unpack

from udmsh_pl.backbones.networks import BackboneFeatures
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.fusion import FusedEncoder, load_fusion
from udmsh_pl.models.manifold_teacher import COMPANIONS, ManifoldSettings, fit_manifold_teacher
from udmsh_pl.models.options import BranchOptions
from udmsh_pl.safe.constructors import check_range
from udmsh_pl.similarity.losses import asymmetric_pairwise_loss, nt_xent_loss, ranking_loss
from udmsh_pl.similarity.precision import at_least_float32

GPU_SHARE = 0.25  # of the free memory, that inputs and targets may take


class UDMSHPlus(HashingModule):
    """UDMSH's idea, pairwise similarities with semantic structure and codes that keep their
    geometry, in *our* form.

    The teacher says two things. What group an image is of: the cosine after a long diffusion over
    the train images' neighbour graph (:mod:`udmsh_pl.similarity.manifold`), which inner products of
    codes
    learn by squared errors. And who is nearest: the cosine of the fused features, which codes learn
    as a ranking, since squared errors that are right about groups hardly notice who is nearest. An
    image's random views (``--data.views``) say which directions of the features count when it comes
    to who is nearest. Batches hold near images, since of the pairs of a random batch hardly any is.
    The student is a linear path, which starts as ITQ of the fused features, and a head beside it;
    it sees the clean image or one of its views, and its inner products are those of relaxed codes
    with each other and with codes at once. Beside it codes of two views of an image are to be
    nearer to each other than to those of images that are not similar (NT-Xent, as SimCLR and
    CIBHash have it), at a small weight. Everything here is *ours*.

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
        view_discount: how far directions in which an image differs from its own views count less
            (:meth:`udmsh_pl.models.fusion.FusedFeature.discount_views`); 0 not at all
        near_share: share of two nearer levels in the similarity, half of it each: the cosine after
            a short diffusion and that of the fused features
        ranking_weight: weight of :func:`udmsh_pl.similarity.losses.ranking_loss` against the cosine of
            the fused features; more of it orders near images better, less of it far ones
        companions: in the place of 3 images of 4 (for 3) a batch shows some of the nearest images
            of the fourth; 0 shows it as it was dealt. From 0 to 3; a backbone that is trained sees
            batches as they were dealt
        linear_path: let the codes start as ITQ of the fused features
        contrastive_weight: weight of NT-Xent between two views of half of the images, where there
            are views and the backbone is not trained; of two images with a similarity of a half or
            more none counts as different from the other
        code_share: share of the loss's inner products that are between a relaxed code and a code
        least_weight: a pair weighs this plus the size of its similarity, so that the few pairs of a
            small group count among the many that have nothing in common; None weighs all pairs
            alike
    """

    def __init__(
        self,
        *,
        hidden: int = 2048,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 50,
        cosine_decay: bool = True,
        teacher: Literal["manifold", "cosine"] = "manifold",
        use_views: bool = True,
        dims: int = 512,
        dropout: float = 0.3,
        neighbours: int = 30,
        edge_power: float = 3.0,
        rank: int = 128,
        diffusion_time: float | None = None,
        near_share: float = 0.0,
        ranking_weight: float = 0.1,
        view_discount: float = 1.0,
        companions: int = 3,
        linear_path: bool = True,
        contrastive_weight: float = 0.06,
        code_share: float = 0.5,
        least_weight: float | None = 0.1,
        **options: Unpack[BranchOptions],
    ) -> None:
        check_range("diffusion_time", diffusion_time)
        check_range("least_weight", least_weight)
        check_range("near_share", near_share, most=1)
        check_range("companions", companions, most=3)
        check_range("ranking_weight", ranking_weight, most=math.inf)
        check_range("contrastive_weight", contrastive_weight, most=math.inf)
        check_range("view_discount", view_discount, most=1)
        super().__init__(
            hidden=hidden,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            cosine_decay=cosine_decay,
            **options,
        )
        self.use_views, self.code_share, self.least_weight = use_views, code_share, least_weight
        self.near_share, self.companions, self.linear_path = near_share, companions, linear_path
        self.contrastive_weight, self.ranking_weight = contrastive_weight, ranking_weight
        with_map = self.branches != "global"
        self.settings = ManifoldSettings(
            teacher,
            with_map,
            dims,
            neighbours,
            edge_power,
            rank,
            diffusion_time,
            near_share,
            view_discount if use_views else 0.0,
        )
        # of the train images; not for the checkpoint
        self._inputs, self._targets, self._nearest = (torch.empty(0) for _ in range(3))

    @property
    def train_arrays(self) -> tuple[str, ...]:
        """None: the objective reads the fused inputs that were made beforehand."""
        return ()

    @property
    def used_features(self) -> tuple[int, ...]:
        """The fused feature always has the global one in it."""
        return (0,) if self.branches == "global" else (0, 1)

    def build_encoder(self) -> FusedEncoder:
        """The fused feature and its head; ``branches`` other than ``global`` use the feature map
        too.
        """
        map_dim = 0 if self.branches == "global" else self.backbone_info.map_channels * self.grid**2
        dims, dropout = self.hparams["dims"], self.hparams["dropout"]
        encoder = FusedEncoder(
            self.backbone_info.global_dim, map_dim, self.bits, self.hidden, dims, dropout
        )
        encoder.direct.requires_grad_(self.hparams["linear_path"])
        return encoder

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """As in the base, with the map averaged to the grid that the fused feature was fitted
        on.
        """
        features = super().backbone_features(image)
        pooled = torch.nn.functional.adaptive_avg_pool2d(features.feature_map, self.grid)
        return features._replace(feature_map=pooled)

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Fused features of the clean train images and their views, and the levels of similarity
        (:func:`fit_manifold_teacher`).

        Neither depends on code length or seed.
        """
        return features.teacher("udmsh-plus", self.settings, fit_manifold_teacher)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over what :func:`fit_manifold_teacher` gave, in the precision of the fit."""
        load_fusion(self.encoder.fusion, state, self.device)
        self._inputs, self._targets, self._nearest = kept_near(
            self.device, *(state[name] for name in ("inputs", "targets", "nearest"))
        )
        if self.linear_path:
            self.encoder.start_from_itq(state["inputs"][:, 0])

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Inner products of codes against the teacher's similarities, who is nearest by codes
        against who is by features, over the global batch, and views against views.
        """
        dealt = batch["index"].to(self._targets.device)
        if self.finetune:
            u, rows, views = self(batch), dealt, []
        else:
            rows = self.with_companions(dealt)
            compared, places = self._compared(dealt)
            seen = torch.cat([self._shown(len(rows)), *places])
            fused = self._inputs[torch.cat([rows, *compared]), seen].to(self.device)
            with self.network_precision():
                logits = self.encoder.head_logits(fused)
            relaxed = torch.tanh(at_least_float32(logits))
            u, *views = torch.split(relaxed, [len(rows), *map(len, compared)])
        self.log_codes(u)
        similarity = self.similarity(rows)
        weight = None if self.least_weight is None else self.least_weight + similarity.abs()
        terms = {"pairwise": asymmetric_pairwise_loss(u, similarity, self.code_share, weight)}
        if self.ranking_weight:
            same = (rows[:, None] == rows).to(self.device)  # a companion may come twice
            ranking = ranking_loss(u, self.nearness(rows), left_out=same)
            terms["ranking"] = self.ranking_weight * ranking
        if views:
            half = len(views[0])
            apart = (1 - 2 * self.similarity(dealt[:half])).clamp(0, 1)
            told = nt_xent_loss(views[0], views[1], apart=apart)
            terms["contrastive"] = self.contrastive_weight * told
        return terms

    def similarity(self, rows: Tensor) -> Tensor:
        """What the codes of the train images ``rows`` learn: ``[B, B]`` of the global batch."""
        targets = self._targets[rows].to(self.device)  # [B, R]
        similarity = targets @ targets.T
        if not self.near_share:
            return similarity
        return similarity + self.near_share / 2 * self.nearness(rows)

    def nearness(self, rows: Tensor) -> Tensor:
        """Cosines of the fused features of the train images ``rows``: ``[B, B]``."""
        fused = self._inputs[rows, 0].to(self.device, torch.float32)  # [B, dims]
        unit = normalize(fused, dim=1)
        return unit @ unit.T

    def with_companions(self, rows: Tensor) -> Tensor:
        """The first rows of the batch, each with ``companions`` of the images nearest to it in the
        place of the others; ``[B]``.
        """
        if not self.companions:
            return rows
        kept = -(-len(rows) // (1 + self.companions))
        of = rows[torch.arange(len(rows) - kept, device=rows.device) % kept]
        which = torch.randint(COMPANIONS, (len(of),), device=rows.device)
        return torch.cat([rows[:kept], self._nearest[of, which]])

    def _compared(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Half of the rows twice, and two different views of each; nothing without views."""
        views = self._inputs.shape[1]
        if not (self.contrastive_weight and self.use_views and views > 1):
            return [], []
        half = rows[: -(-len(rows) // 2)]
        draws = torch.rand(len(half), views, device=self._inputs.device)
        return [half, half], list(draws.topk(2).indices.T)

    def _shown(self, count: int) -> Tensor:
        """Which of its views a step shows of each image, 0 for the image as it is; long."""
        views = self._inputs.shape[1] if self.use_views else 1
        return torch.randint(views, (count,), device=self._inputs.device)


def kept_near(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on a GPU that has room for them; else where they are, in the file's memory map.

    What is on the GPU is not copied there step by step.
    """
    if device.type != "cuda":
        return tensors
    free, _ = torch.cuda.mem_get_info(device)
    if sum(tensor.nbytes for tensor in tensors) > free * GPU_SHARE:
        return tensors
    return tuple(tensor.to(device) for tensor in tensors)
