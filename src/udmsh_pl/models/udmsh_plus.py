"""UDMSH-plus: the best of ours, a student that learns a manifold teacher's similarities from
views.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udmsh_pl.backbones import BackboneFeatures
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch, sample_rows
from udmsh_pl.losses import asymmetric_pairwise_loss
from udmsh_pl.manifold import diffused_embedding, neighbour_graph, unit_rows
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.fusion import FusedEncoder

if TYPE_CHECKING:
    from udmsh_pl.data.base import RetrievalDataModule

FIT_ROWS = 20_000  # train rows that the fused feature's axes are fitted on
BLOCK = 1024  # rows projected at a time


@dataclass(eq=False, kw_only=True, repr=False)
class UDMSHPlus(HashingModule):
    """UDMSH's idea, pairwise similarities with semantic structure and codes that keep their
    geometry, in *our* form.

    The teacher's similarity is the cosine after diffusion over the train images' neighbour graph
    (:mod:`udmsh_pl.manifold`); the student sees the clean image or one of its random views
    (``--data.views``), and learns inner products of relaxed codes with each other and with codes at
    once. Everything here is *ours*.

    Args:
        teacher: ``manifold``, or ``cosine`` of the fused features themselves
        use_views: train on the cached views too where there are any
        dims: principal axes of the fused feature
        dropout: share of the head's hidden units left out in training
        neighbours: k of the neighbour graph; at most a quarter of the train images
        edge_power: an edge weighs its cosine to this power
        rank: eigenvectors of the diffusion; at most a quarter of the train images
        diffusion_time: how far similarity spreads; None for
            :func:`udmsh_pl.manifold.diffused_embedding`'s rule
        code_share: share of the loss's inner products that are between a relaxed code and a code
        least_weight: a pair weighs this plus the size of its similarity, so that the few pairs of a
            small group count among the many that have nothing in common; None weighs all pairs
            alike
    """

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
    code_share: float = 0.5
    least_weight: float | None = 0.1

    def __post_init__(self) -> None:
        for name in ("diffusion_time", "least_weight"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give --model.{name} a number of at least 0, "
                    "or null"
                )
        super().__post_init__()
        self._inputs, self._targets = (
            torch.empty(0),
            torch.empty(0),
        )  # of the train images; not for the checkpoint

    @property
    def train_arrays(self) -> tuple[str, ...]:
        """None: the objective reads the fused inputs that were made beforehand."""
        return ()

    def build_encoder(self) -> FusedEncoder:
        """The fused feature and its head; ``branches`` other than ``global`` use the feature map
        too.
        """
        map_dim = 0 if self.branches == "global" else self.backbone_info.map_channels * self.grid**2
        return FusedEncoder(
            self.backbone_info.global_dim, map_dim, self.bits, self.hidden, self.dims, self.dropout
        )

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """As in the base, with the map averaged to the grid that the fused feature was fitted
        on.
        """
        features = super().backbone_features(image)
        pooled = torch.nn.functional.adaptive_avg_pool2d(features.feature_map, self.grid)
        return features._replace(feature_map=pooled)

    def fit_teacher(self, datamodule: "RetrievalDataModule") -> dict[str, Tensor]:
        """Fused features of the clean train images and their views, and the teacher's embedding of
        each image.

        Neither depends on code length or seed, so the runs of one process share them.
        """
        settings = (
            self.teacher,
            self.branches,
            self.dims,
            self.neighbours,
            self.edge_power,
            self.rank,
            self.diffusion_time,
        )
        return datamodule.once(
            ("udmsh-plus", *settings), lambda: self._fit(datamodule.features("train"))
        )

    def _fit(self, stored: Arrays) -> dict[str, Tensor]:
        encoder = self.build_encoder()
        rows = sample_rows(len(stored["global_feature"]), FIT_ROWS)
        encoder.fusion.fit(encoder.parts(*_rows(stored, rows)))
        inputs = [_fused(encoder, stored["global_feature"], stored["feature_map"])]
        for view in range(stored["views"].shape[1] if "views" in stored else 0):
            inputs.append(_fused(encoder, stored["views"][:, view], stored["view_maps"][:, view]))
        fusion = {f"fusion.{name}": value for name, value in encoder.fusion.state_dict().items()}
        return fusion | {
            "inputs": torch.stack(inputs, dim=1),
            "targets": self._embedding(inputs[0]),
        }

    def _embedding(self, fused: Tensor) -> Tensor:
        """Unit rows whose cosines are the teacher's similarities."""
        features = fused.float().numpy()
        if self.teacher == "cosine":
            return torch.from_numpy(unit_rows(features))
        graph = neighbour_graph(features, self.neighbours, self.edge_power)
        return torch.from_numpy(diffused_embedding(graph, self.rank, self.diffusion_time))

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the fitted fused feature, the inputs ``[N, 1 + V, dims]`` and the teacher's
        unit rows ``[N, rank]``.
        """
        fusion = {
            name.removeprefix("fusion."): value
            for name, value in state.items()
            if name.startswith("fusion.")
        }
        self.encoder.fusion.load_state_dict(fusion)
        self._inputs, self._targets = state["inputs"], state["targets"]

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Inner products of codes against the teacher's similarities, over the global batch."""
        rows = batch["index"].cpu()
        if self.finetune:
            u = self(batch)
        else:
            seen = self._inputs.shape[1] if self.use_views else 1
            pick = torch.randint(seen, (len(rows),))  # each image: as it is, or one of its views
            u = torch.tanh(
                self.encoder.head(self._inputs[rows, pick].to(self.device, torch.float32))
            )
        u = self.gather(u)
        self.log_codes(u)
        targets = self.gather(self._targets[rows].to(self.device))
        similarity = targets @ targets.T
        weight = None if self.least_weight is None else self.least_weight + similarity.abs()
        return {"pairwise": asymmetric_pairwise_loss(u, similarity, self.code_share, weight)}


def _rows(stored: Arrays, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(stored["global_feature"][rows]), torch.from_numpy(
        stored["feature_map"][rows]
    )


def _fused(
    encoder: FusedEncoder, feature: NDArray[np.float16], feature_map: NDArray[np.float16]
) -> Tensor:
    """Fused features, float16 [N, dims], block by block, so that the float32 parts are never all
    there at once.
    """
    blocks = []
    for start in range(0, len(feature), BLOCK):
        part = slice(start, start + BLOCK)
        pair = (torch.from_numpy(np.array(array[part])) for array in (feature, feature_map))
        blocks.append(encoder.fuse(*pair).half())
    return torch.cat(blocks)
