"""UDMSH-plus: the best of ours, a student that learns a manifold teacher's similarities from
views.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import Unpack

from udmsh_pl.backbones import BackboneFeatures
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.losses import asymmetric_pairwise_loss
from udmsh_pl.manifold import diffused_embedding, neighbour_graph, unit_rows
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.fusion import ROWS_AT_ONCE, FusedEncoder, FusedFeature, side_by_side
from udmsh_pl.models.options import BranchOptions
from udmsh_pl.precision import at_least_float32

FIT_ROWS = 20_000  # train rows that the fused feature's axes are fitted on
GPU_SHARE = 0.25  # of the free memory, that inputs and targets may take


@dataclass(frozen=True)
class ManifoldSettings:
    """What decides fused features and teacher, beside the train features; see
    :class:`UDMSHPlus`.
    """

    teacher: Literal["manifold", "cosine"]
    with_map: bool
    dims: int
    neighbours: int
    edge_power: float
    rank: int
    diffusion_time: float | None


class UDMSHPlus(HashingModule):
    """UDMSH's idea, pairwise similarities with semantic structure and codes that keep their
    geometry, in *our* form.

    The teacher's similarity has two levels: the cosine after diffusion over the train images'
    neighbour graph (:mod:`udmsh_pl.manifold`), which says what group an image is of but not who is
    nearest in it, and the cosine of the fused features, which says who is nearest. The student sees
    the clean image or one of its random views (``--data.views``), and learns inner products of
    relaxed codes with each other and with codes at once. Everything here is *ours*.

    Args:
        hidden: width of the head
        learning_rate: Adam's, for the head
        weight_decay: Adam's (decoupled), 0 for none
        warmup_steps: steps over which the learning rate rises to its value
        cosine_decay: let the learning rate fall to 0 along half a cosine over the training
        teacher: ``manifold``, or ``cosine`` of the fused features themselves
        use_views: train on the cached views too where there are any
        dims: principal axes of the fused feature
        dropout: share of the head's hidden units left out in training
        neighbours: k of the neighbour graph; at most a quarter of the train images
        edge_power: an edge weighs its cosine to this power
        rank: eigenvectors of the diffusion; at most a quarter of the train images
        diffusion_time: how far similarity spreads; None for
            :func:`udmsh_pl.manifold.diffused_embedding`'s rule
        cosine_share: share of the fused features' cosine in the similarity, beside the teacher's:
            more of it orders near images better, less of it far ones (0.5: experiments/levels.yaml)
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
        cosine_share: float = 0.0,
        code_share: float = 0.5,
        least_weight: float | None = 0.1,
        **options: Unpack[BranchOptions],
    ) -> None:
        for name, value in (("diffusion_time", diffusion_time), ("least_weight", least_weight)):
            if (value or 0) < 0:
                raise InputError(
                    f"{name} is {value}; give --model.{name} a number of at least 0, or null"
                )
        if not 0 <= cosine_share <= 1:
            raise InputError(
                f"cosine_share is {cosine_share}; give --model.cosine_share a number from 0 to 1"
            )
        super().__init__(
            hidden=hidden,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            cosine_decay=cosine_decay,
            **options,
        )
        self.use_views, self.code_share, self.least_weight = use_views, code_share, least_weight
        self.cosine_share = cosine_share
        self.settings = ManifoldSettings(
            teacher, self.branches != "global", dims, neighbours, edge_power, rank, diffusion_time
        )
        # of the train images; not for the checkpoint
        self._inputs, self._targets = torch.empty(0), torch.empty(0)

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
        return FusedEncoder(
            self.backbone_info.global_dim, map_dim, self.bits, self.hidden, dims, dropout
        )

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """As in the base, with the map averaged to the grid that the fused feature was fitted
        on.
        """
        features = super().backbone_features(image)
        pooled = torch.nn.functional.adaptive_avg_pool2d(features.feature_map, self.grid)
        return features._replace(feature_map=pooled)

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Fused features of the clean train images and their views, and the teacher's embedding of
        each image (:func:`fit_manifold_teacher`).

        Neither depends on code length or seed.
        """
        return features.teacher("udmsh-plus", self.settings, fit_manifold_teacher)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over what :func:`fit_manifold_teacher` gave, in the precision of the fit."""
        fusion = {
            name.removeprefix("fusion."): value.clone()
            for name, value in state.items()
            if name.startswith("fusion.")
        }
        self.encoder.fusion.load_state_dict(fusion, assign=True)
        self.encoder.fusion.to(self.device)
        self._inputs, self._targets = kept_near(self.device, state["inputs"], state["targets"])

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Inner products of codes against the teacher's similarities, over the global batch."""
        rows = batch["index"].to(self._targets.device)
        if self.finetune:
            u = self(batch)
        else:
            fused = self._inputs[rows, self._shown(rows)].to(self.device)
            with self.network_precision():
                logits = self.encoder.head_logits(fused)
            u = torch.tanh(at_least_float32(logits))
        u = self.gather(u)
        self.log_codes(u)
        similarity = self.similarity(rows)
        weight = None if self.least_weight is None else self.least_weight + similarity.abs()
        return {"pairwise": asymmetric_pairwise_loss(u, similarity, self.code_share, weight)}

    def similarity(self, rows: Tensor) -> Tensor:
        """What the codes of the train images ``rows`` learn: ``[B, B]`` of the global batch."""
        targets = self.gather(self._targets[rows].to(self.device))  # [B, R], of length 1
        similarity = targets @ targets.T
        if not self.cosine_share:
            return similarity
        fused = self.gather(self._inputs[rows, 0].to(self.device, torch.float32))  # [B, dims]
        unit = normalize(fused, dim=1)
        return torch.lerp(similarity, unit @ unit.T, self.cosine_share)

    def _shown(self, rows: Tensor) -> Tensor:
        """For each row whether the step shows the image as it is (0) or which of its views; long.

        Drawn for the global batch, whose rows are dealt to processes in turn: they draw alike.
        """
        count = self._inputs.shape[1] if self.use_views else 1
        trainer = self._trainer  # `udmsh index` learns without one
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        return torch.randint(count, (len(rows) * world,), device=rows.device)[rank::world]


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


def fit_manifold_teacher(stored: Arrays, settings: ManifoldSettings) -> dict[str, Tensor]:
    """Fit the fused feature and the teacher to train features.

    Returns:
        ``fusion.*``, buffers of the :class:`FusedFeature`; ``inputs``, float16
        ``[N, 1 + V, dims]``, fused features of the images and their views; ``targets``, float32
        unit rows ``[N, rank]`` whose cosines are the teacher's similarities.
    """
    feature, feature_map = stored["global_feature"], stored["feature_map"]
    map_dim = feature_map[0].size if settings.with_map else 0
    parts = (feature.shape[1], map_dim) if map_dim else (feature.shape[1],)
    fusion = FusedFeature(parts, settings.dims)
    fusion.fit(_parts(feature, feature_map, sample_rows(len(feature), FIT_ROWS), settings.with_map))
    inputs = [_fused(fusion, feature, feature_map, settings.with_map)]
    for view in range(stored["views"].shape[1] if "views" in stored else 0):
        views = stored["views"][:, view], stored["view_maps"][:, view]
        inputs.append(_fused(fusion, *views, settings.with_map))
    state = {f"fusion.{name}": value for name, value in fusion.state_dict().items()}
    targets = _embedding(inputs[0].float().numpy(), settings)
    return state | {"inputs": torch.stack(inputs, dim=1), "targets": torch.from_numpy(targets)}


def _embedding(fused: NDArray[np.float32], settings: ManifoldSettings) -> NDArray[np.float32]:
    if settings.teacher == "cosine":
        return unit_rows(fused)
    graph = neighbour_graph(fused, settings.neighbours, settings.edge_power)
    return diffused_embedding(graph, settings.rank, settings.diffusion_time)


def _parts(
    feature: NDArray[np.float16],
    feature_map: NDArray[np.float16],
    rows: NDArray[np.int64] | slice,
    with_map: bool,
) -> Tensor:
    chosen = torch.from_numpy(np.array(feature_map[rows])) if with_map else None
    return side_by_side(torch.from_numpy(np.array(feature[rows])), chosen)


def _fused(
    fusion: FusedFeature,
    feature: NDArray[np.float16],
    feature_map: NDArray[np.float16],
    with_map: bool,
) -> Tensor:
    """Fused features, float16 [N, dims], block by block, so that the float32 parts are never all
    there at once.
    """
    starts = range(0, len(feature), ROWS_AT_ONCE)
    blocks = (_parts(feature, feature_map, slice(at, at + ROWS_AT_ONCE), with_map) for at in starts)
    return torch.cat([fusion(block).half() for block in blocks])
