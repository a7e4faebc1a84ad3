"""UDMSH as read from its abstract, every *read* part open to configuration."""

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.encoder import DualBranchEncoder
from udmsh_pl.models.fusion import load_fusion
from udmsh_pl.models.linear_path import LinearPathEncoder
from udmsh_pl.models.manifold_teacher import ManifoldSettings
from udmsh_pl.models.options import BranchAndSizeOptions
from udmsh_pl.models.rotation import RotatedCodes
from udmsh_pl.models.structure_teacher import (
    ROW,
    Kind,
    StructureSettings,
    Teacher,
    fit_manifold_structure,
    fit_structure,
    levelled,
    teacher_dims,
    teacher_features,
)
from udmsh_pl.models.udmsh_plus import kept_near
from udmsh_pl.safe.constructors import check_range
from udmsh_pl.similarity.losses import (
    Isometry,
    bit_balance_loss,
    decorrelation_loss,
    isometric_loss,
    multilevel_pairwise_loss,
    ranking_loss,
)
from udmsh_pl.similarity.precision import at_least_float32
from udmsh_pl.similarity.structure import Levels, SemanticStructure

# the ranking's temperature of codes times sqrt(K): about what chance does to a cosine of K bits, so
# that short codes are not asked for differences they cannot have (experiments/README.md)
BLUR = 1.1


class UDMSH(RotatedCodes):
    """Unsupervised Deep Multi-Similarity Hashing with semantic structure (Qin et al., IEEE TCSVT
    2021).

    ``L = L_pair + lambda * L_iso``. *Stated* in the abstract: dual branches, cosine distances of
    deep features as semantic structure, a multi-level pairwise loss, a Hamming-isometric mapping.
    *Read*: the form of each. The "correct fine-grained similarity ranking" that it promises is read
    as one more term, which compares whom codes and whom features hold for nearest. The structure is
    read as that of the neighbourhood graph, by default.
    Beside the branches there is a linear path, which starts as ITQ (*ours*).
    ``structure="cosine", levels="graded", least_weight=None, ranking_weight=0, batch_norm=False``,
    a rate of 1e-3 and no decay are the reading of 0.1.0, of cosine distances alone between two
    thresholds, which orders far images well and near ones badly.

    Args:
        structure: whose distances the semantic structure is. ``cosine``: of the teacher's features,
            as the abstract's "cosine distance". ``manifold``: of three levels, the distance after a
            long diffusion over the graph of nearest neighbours, which reads "semantic structure" as
            MLS3RDUH (IJCAI 2020) does, that after a short one, and the cosine distance
        near_share: of the two near levels of ``manifold``, half of it each
        teacher: features whose distances are the structure; ``both`` averages the two cosine
            distances
        root: take the signed square root of the teacher's features, which tames channels that burst
            (*ours*)
        alpha: pairs nearer than ``m - alpha sigma_left`` are surely similar
        beta: pairs farther than ``m + beta sigma_right`` are surely dissimilar
        levels: ``linear`` (1 - distance, so that no two near pairs are level and images that have
            nothing in common get orthogonal codes), ``graded`` (a line between the two thresholds),
            ``hard`` (SSDH) or ``cosine`` (1 - 2 distance)
        confidence: weight pairs by CIMON's confidence
        least_weight: a pair weighs this plus the size of its similarity, so that the few near pairs
            count among the many far ones; None for pairs weighed by ``confidence`` alone
        ranking_weight: weight of :func:`udmsh_pl.similarity.losses.ranking_loss` against the teacher's
            cosine (of the fused features for ``manifold``); more of it orders near images better, less of
            it far ones
        centre: subtract the train mean from the teacher's features
        structure_sample: rows for the structure's fit on larger train sets; None for all
        isometry: which reading of the Hamming-isometric mapping
        isometry_weight: lambda
        balance_weight: weight of the bit balance (*ours*, off)
        decorrelation_weight: weight of the bit decorrelation (*ours*, off)
        linear_path: let the codes start as ITQ of what the branches read, rooted, centred and on
            principal axes, by a linear path beside them; for the ``manifold`` structure
        batch_norm: normalise hidden layers over the batch
        learning_rate: Adam's, for the encoder
        warmup_steps: steps over which the learning rate rises to its value
        cosine_decay: let the learning rate fall to 0 along half a cosine over the training
    """

    def __init__(
        self,
        *,
        structure: Kind = "manifold",
        near_share: float = 0.5,
        teacher: Teacher = "both",
        root: bool = True,
        alpha: float = 2.0,
        beta: float = 2.0,
        levels: Levels = "linear",
        confidence: bool = False,
        least_weight: float | None = 0.1,
        ranking_weight: float = 0.1,
        centre: bool = True,
        structure_sample: int | None = 20_000,
        isometry: Isometry = "pairwise",
        isometry_weight: float = 0.1,
        balance_weight: float = 0.0,
        decorrelation_weight: float = 0.0,
        linear_path: bool = True,
        batch_norm: bool = True,
        learning_rate: float = 3e-3,
        warmup_steps: int = 50,
        cosine_decay: bool = True,
        **options: Unpack[BranchAndSizeOptions],
    ) -> None:
        if structure == "manifold" and (teacher == "spatial" or not (root and centre)):
            raise InputError(
                "the manifold structure is made of rooted, centred features; give --model.root and "
                "centre true and --model.teacher both or global, or --model.structure cosine"
            )
        check_range("least_weight", least_weight)
        check_range("near_share", near_share, most=1)
        check_range("ranking_weight", ranking_weight, most=math.inf)
        super().__init__(
            batch_norm=batch_norm,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            cosine_decay=cosine_decay,
            **options,
        )
        self.near_share, self.ranking_weight = near_share, ranking_weight
        self.linear_path = linear_path and structure == "manifold"
        self.kind, self.teacher, self.root, self.least_weight = (
            structure,
            teacher,
            root,
            least_weight,
        )
        self.isometry, self.isometry_weight = isometry, isometry_weight
        self.balance_weight, self.decorrelation_weight = balance_weight, decorrelation_weight
        dims = teacher_dims(
            teacher, self.backbone_info.global_dim, self.backbone_info.map_channels * self.grid**2
        )
        if structure == "manifold":  # whose rows come centred
            dims, centre = [ROW], False
        self.structure = SemanticStructure(
            dims, alpha, beta, levels, confidence, centre, structure_sample
        )
        # of the train images, for the manifold and the path; not in checkpoints
        self._rows, self._inputs = torch.empty(0), torch.empty(0)
        self.histogram: Tensor | None = None  # of the train set's distances, for the picture
        self.register_buffer("rotation", torch.eye(self.bits))
        self._epoch_u: list[Tensor] = []

    def build_encoder(self) -> DualBranchEncoder:
        """The dual-branch encoder, with a linear path where there is to be one."""
        if not (self.hparams["linear_path"] and self.hparams["structure"] == "manifold"):
            return super().build_encoder()  # type: ignore[no-any-return]
        return LinearPathEncoder(
            self.backbone_info.global_dim,
            self.backbone_info.map_channels,
            self.bits,
            self.hidden,
            self.spatial_hidden,
            self.branches,
            self.pooling,
            self.batch_norm,
            self.grid,
        )

    @property
    def train_arrays(self) -> tuple[str, ...]:
        """What the encoder's branches and the teacher read."""
        if self.kind == "manifold" or self.teacher == "global":
            return super().train_arrays
        return ("global_feature", "feature_map")

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """The mean and the two half-Gaussians of the train split."""
        structure = self.structure
        settings = StructureSettings(
            self.teacher,
            self.root,
            structure.centre,
            structure.sample,
            self.near_share,
            self.branches if self.linear_path else None,
        )
        if self.kind == "manifold":
            return features.teacher("udmsh-levels", settings, fit_manifold_structure)
        return features.teacher("udmsh", settings, fit_structure)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted structure, in the precision that it was fitted in."""
        self.histogram = state["histogram"]
        if self.kind == "manifold":
            [self._rows] = kept_near(self.device, state["rows"])
        if isinstance(self.encoder, LinearPathEncoder):
            load_fusion(self.encoder.fusion, state, self.device)
            self.encoder.start_from_itq(state["inputs"])
            [self._inputs] = kept_near(self.device, state["inputs"])
        fitted = {name: state[name].clone() for name in self.structure.state_dict()}
        self.structure.load_state_dict(fitted, assign=True)
        self.structure.to(self.device)

    def teacher_features(self, batch: Batch) -> Tensor:
        """What distances are taken between, ``[B, D']``: the fitted rows of the batch's images for
        the manifold, else :func:`teacher_features` of cached features.
        """
        if self.kind == "manifold":
            rows = batch["index"].to(self._rows.device)
            return levelled(self._rows[rows].to(self.device, torch.float32), self.near_share)
        return teacher_features(batch, self.teacher, self.root)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Multi-level pairwise loss and isometric mapping over the global batch."""
        u = self.relaxed(batch)
        distances = self.structure.distances(self.teacher_features(batch))
        similarity = self.structure.similarity(distances)
        weight = self.structure.weight(distances)
        if self.least_weight is not None:
            weight = weight * (self.least_weight + similarity.abs())
        terms = {"pairwise": multilevel_pairwise_loss(u, similarity, weight)}
        if self.ranking_weight:
            ranking = ranking_loss(
                u, self.nearness(batch, distances), code_temperature=BLUR / self.bits**0.5
            )
            terms["ranking"] = self.ranking_weight * ranking
        if self.isometry_weight:
            if self.isometry == "rotation":
                self._epoch_u.append(u.detach())
            terms["isometry"] = self.isometry_weight * isometric_loss(
                u, self.isometry, self.rotation.to(u.dtype)
            )
        if self.balance_weight:
            terms["balance"] = self.balance_weight * bit_balance_loss(u)
        if self.decorrelation_weight:
            terms["decorrelation"] = self.decorrelation_weight * decorrelation_loss(u)
        self.log_similarity(similarity, u)
        return terms

    def relaxed(self, batch: Batch) -> Tensor:
        """Relaxed codes of a train batch, ``[B, K]``; what the linear path reads of cached features
        was fused beforehand.
        """
        if self.finetune or not self.linear_path:
            return self(batch)  # type: ignore[no-any-return]
        fused = self._inputs[batch["index"].to(self._inputs.device)].to(self.device)
        with self.network_precision():
            logits = self.encoder.logits(batch["global_feature"], batch.get("feature_map"), fused)
        return torch.tanh(at_least_float32(logits))

    def nearness(self, batch: Batch, distances: Tensor) -> Tensor:
        """Cosines that say who is nearest, ``[B, B]``: of the fused features for the manifold, else
        those of the structure's ``distances``.
        """
        if self.kind == "cosine":
            return 1 - distances
        rows = batch["index"].to(self._rows.device)
        fused = self._rows[rows, : ManifoldSettings.dims].to(self.device, torch.float32)
        return fused @ fused.T

    def log_similarity(self, similarity: Tensor, u: Tensor) -> None:
        """Log what share of pairs is surely similar or dissimilar, and what the codes are like."""
        values = {
            "similarity/mean": similarity.mean(),
            "similarity/share_similar": (similarity >= 1).float().mean(),
            "similarity/share_dissimilar": (similarity <= -1).float().mean(),
        }
        self.log_mean(values)
        self.log_codes(u)
