"""CIMON: similarities that distance and clusters agree on, of views (Luo et al., IJCAI 2021)."""

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

from udmsh_pl.baselines.deep import TwoViewHash, global_features, two_views
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import Rows, TrainFeatures
from udmsh_pl.similarity.losses import multilevel_pairwise_loss, nt_xent_loss
from udmsh_pl.similarity.manifold import diffused_embedding, neighbour_graph
from udmsh_pl.similarity.structure import SemanticStructure


@dataclass(frozen=True)
class ClusterSettings:
    """What decides clusters and half-Gaussians, beside the train features; see :class:`CIMON`."""

    clusters: int
    neighbours: int


def fit_clusters(stored: Arrays, settings: ClusterSettings) -> dict[str, Tensor]:
    """``cluster``, long [N], of each train image by spectral clustering (Ng, Jordan & Weiss, NIPS
    2001), and the half-Gaussians of the uncentred features' distances.
    """
    features = global_features(stored).float()
    clusters = max(1, min(settings.clusters, len(features) // 4))
    structure = SemanticStructure([features.shape[1]], centre=False)
    structure.fit(features)
    graph = neighbour_graph((features - features.mean(0)).numpy(), settings.neighbours)
    rows = diffused_embedding(graph, clusters, time=0.0)  # [N, clusters]
    means = faiss.Kmeans(rows.shape[1], clusters, niter=20, nredo=3, seed=0)
    means.train(rows)
    cluster = means.index.search(np.ascontiguousarray(rows), 1)[1][:, 0]
    return {"cluster": torch.from_numpy(cluster.copy()), **structure.state_dict()}


def agreed_similarity(distances: Tensor, cluster: Tensor, mode: float) -> Tensor:
    """S float ``[B, B]``: +1 for near pairs of one cluster, -1 for far pairs of two, 0 where
    distance and clusters disagree, of distances ``[B, B]`` and clusters ``[B]``; near is at most
    the mode.
    """
    near, same = distances <= mode, cluster[:, None] == cluster
    return (near & same).to(distances.dtype) - (~near & ~same).to(distances.dtype)


@dataclass(kw_only=True, eq=False, repr=False)
class CIMON(TwoViewHash):
    """Comprehensive similarity mining and consistency learning; needs ``data.views`` of at least 2.

    Each view has similarities S and confidences w of its own distances; its codes learn those of
    the other view: ``(1/2) sum_v sum_ij w_ij w'_ij (u_i.u_j / K - S'_ij)^2 / sum w w'``, beside
    NT-Xent of the two views' codes.

    *Stated* (abstract): a global refinement of similarities and their statistical distribution as
    guidance, semantic and contrastive consistency. *Read*: spectral clusters must agree with the
    distance; confidence by half-Gaussians around the mode, which is the limit too; consistency
    across views; the weight of NT-Xent and its temperature. *Ours*: eigenvectors of our graph of
    neighbours and FAISS's k-means, a weighted mean in place of ``1/B^2``, a frozen backbone, AdamW.

    Args:
        clusters: number of spectral clusters; at most a quarter of the train images
        neighbours: of the graph that is clustered
        contrastive_weight: weight of NT-Xent
        temperature: tau of NT-Xent
    """

    clusters: int = 70
    neighbours: int = 30
    contrastive_weight: float = 0.3
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.clusters < 2:
            raise InputError(
                f"{self.clusters} clusters; give --model.clusters a number of at least 2"
            )
        super().__post_init__()
        dims = [self.backbone_info.global_dim]
        self.structure = SemanticStructure(dims, confidence=True, centre=False)

    def train_rows(self, features: TrainFeatures) -> Rows:
        """The views and each image's cluster."""
        cluster = self.fit_teacher(features)["cluster"].numpy()
        return super().train_rows(features) | {"cluster": cluster}

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Clusters and half-Gaussians of the train images."""
        settings = ClusterSettings(self.clusters, self.neighbours)
        return features.teacher("cimon", settings, fit_clusters)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over the half-Gaussians."""
        self.structure.load_fitted(state)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Semantic consistency across the views, and contrast, over the global batch."""
        codes, similarities, weights = [], [], []
        for seen in two_views(batch):
            codes.append(self(seen))
            distances = self.structure.distances(seen["global_feature"])
            mode = self.structure.half_gaussians.mode  # where confidence is 0
            similarities.append(agreed_similarity(distances, batch["cluster"], mode))
            weights.append(self.structure.weight(distances) * similarities[-1].abs())
        weight = weights[0] * weights[1]
        semantic = [
            multilevel_pairwise_loss(u, similarity, weight)
            for u, similarity in zip(codes, reversed(similarities), strict=True)
        ]
        contrast = nt_xent_loss(codes[0], codes[1], self.temperature)
        return {
            "semantic": (semantic[0] + semantic[1]) / 2,
            "contrastive": self.contrastive_weight * contrast,
        }
