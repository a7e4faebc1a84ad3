"""What every learned method shares: backbone, encoder, optimiser, the global batch and the way to
codes.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from udmsh_pl.backbones import (
    OFFLINE_BACKBONE,
    Backbone,
    BackboneFeatures,
    backbone_info,
    build_backbone,
)
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch
from udmsh_pl.models.encoder import Branches, DualBranchEncoder, Pooling
from udmsh_pl.retrieval import pack_codes
from udmsh_pl.seeds import seed_of

if (
    TYPE_CHECKING
):  # the data modules extract features with our backbones, so at run time data/ imports models/
    from udmsh_pl.data.base import RetrievalDataModule


@dataclass(eq=False, kw_only=True, repr=False)
class HashingModule(LightningModule):
    """A backbone, an encoder and an objective; subclasses give the objective, and a teacher where they
    need one.

    Args:
        bits: code length K, 1 to 1024
        backbone: backbone, ``vgg16``, ``alexnet`` or any timm name
        weights: None for published ImageNet weights, ``random``, or a ``.safetensors``/``.pth``
            file
        finetune: train the backbone too; otherwise it is frozen and its features are read from the
            cache
        branches: ``dual``, ``global`` or ``spatial``
        pooling: how the spatial branch pools its map
        hidden: width of the global branch
        spatial_hidden: width of the spatial branch
        grid: a frozen backbone's feature map is averaged to grid x grid positions
        batch_norm: normalise hidden layers over the batch
        learning_rate: Adam's, for the encoder
        backbone_learning_rate: Adam's, for a backbone that is fine-tuned
        weight_decay: Adam's (decoupled), 0 for none
        warmup_steps: steps over which the learning rate rises to its value
        cosine_decay: let the learning rate fall to 0 along half a cosine over the training
        gather_batch: under DDP, compare the images of all processes with each other instead of each
            process's own
        gradient_checkpointing: recompute the backbone's activations in the backward pass to save
            memory
    """

    bits: int = 64
    backbone: str = OFFLINE_BACKBONE
    weights: str | None = None
    finetune: bool = False
    branches: Branches = "dual"
    pooling: Pooling = "average"
    hidden: int = 1024
    spatial_hidden: int = 256
    grid: int = 2
    batch_norm: bool = False
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 0.0
    warmup_steps: int = 0
    cosine_decay: bool = False
    gather_batch: bool = True
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone_info = backbone_info(self.backbone, self.weights)
        self.encoder = self.build_encoder()
        self.network: Backbone | None = (
            build_backbone(self.backbone, self.weights) if self.finetune else None
        )
        self._frozen_backbone: list[
            Backbone
        ] = []  # in a list, so that it is neither trained nor saved
        self._logged: dict[str, list[Tensor]] = {}  # of the epoch so far

    def build_encoder(self) -> Any:
        """What turns backbone features into logits: a module with
        ``logits(global_feature, feature_map)``.
        """
        return DualBranchEncoder(
            global_dim=self.backbone_info.global_dim,
            map_channels=self.backbone_info.map_channels,
            bits=self.bits,
            hidden=self.hidden,
            spatial_hidden=self.spatial_hidden,
            branches=self.branches,
            pooling=self.pooling,
            batch_norm=self.batch_norm,
        )

    @property
    def train_arrays(self) -> tuple[str, ...]:
        """Cached arrays that a train batch holds; copying what an objective never reads would cost
        more than many a head.
        """
        return (
            ("global_feature",) if self.branches == "global" else ("global_feature", "feature_map")
        )

    @abstractmethod
    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss on a train batch, by name, already weighted; their sum is
        minimised.
        """

    def fit_teacher(self, datamodule: "RetrievalDataModule") -> dict[str, Tensor]:
        """Learn from the train features what the objective needs; runs on one process, before
        training.
        """
        return {}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`fit_teacher` gave, in every process."""

    def on_fit_start(self) -> None:
        """Fit the teacher once and hand it to every process."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(datamodule, "features"):
            raise InputError(
                "training needs a data module of udmsh_pl.data (trainer.fit(model, datamodule=...))"
            )
        state = self.fit_teacher(datamodule) if self.trainer.is_global_zero else {}
        self.load_teacher(self.trainer.strategy.broadcast(state))

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """What the backbone says of images ``[B, 3, H, W]``; no gradient when it is frozen."""
        if self.network is not None:
            if self.gradient_checkpointing and self.training:
                recomputed = torch.utils.checkpoint.checkpoint(
                    self.network, image, use_reentrant=False
                )
                return cast(BackboneFeatures, recomputed)
            return cast(BackboneFeatures, self.network(image))
        if not self._frozen_backbone:
            self._frozen_backbone.append(
                build_backbone(self.backbone, self.weights).requires_grad_(False).to(self.device)
            )
        with torch.no_grad():
            return cast(BackboneFeatures, self._frozen_backbone[0](image))

    def logits(self, batch: Batch) -> Tensor:
        """Encoder output before tanh, ``[B, K]``, from a batch of images or of cached features."""
        if "image" in batch and (self.finetune or "global_feature" not in batch):
            features = self.backbone_features(batch["image"])
            feature_map = features.feature_map
            if not self.finetune:
                feature_map = torch.nn.functional.adaptive_avg_pool2d(feature_map, self.grid)
            return cast(Tensor, self.encoder.logits(features.global_feature, feature_map))
        return cast(Tensor, self.encoder.logits(batch["global_feature"], batch.get("feature_map")))

    def forward(self, batch: Batch) -> Tensor:
        """Relaxed codes u in (-1, 1), ``[B, K]``; the code is their sign, with sign(0) = +1."""
        return torch.tanh(self.logits(batch))

    def view(self, batch: Batch, number: int) -> Batch:
        """The batch as seen through the first (0) or the second (1) of its two random views.

        Raises:
            InputError: the data module was not asked for views.
        """
        if "views" not in batch:
            raise InputError(
                f"{type(self).__name__} trains on random views; give --data.views a number of at "
                "least 2"
            )
        names = {"views": "global_feature", "view_maps": "feature_map"}
        return {
            name: batch[of_views][:, number]
            for of_views, name in names.items()
            if of_views in batch
        }

    def gather(self, values: Tensor) -> Tensor:
        """``[B, ...]`` of this process -> the global batch of all processes, with gradients.

        The backward pass adds the gradients of all processes and DDP then averages over them, which
        leaves the gradient of one process with the whole batch. Rows come in that process's order,
        since they were dealt in turn.
        """
        if not self.gather_batch or self.trainer.world_size == 1:
            return values
        everyone = cast(Tensor, self.all_gather(values, sync_grads=values.requires_grad))
        return everyone.transpose(0, 1).flatten(0, 1)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """What a step draws (dropout) depends on seed, step and process alone, so that a resumed
        run repeats it.
        """
        seed = seed_of(self.trainer.global_step, self.trainer.global_rank)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(
                seed
            )  # torch.manual_seed spends 1 ms on a queue for GPUs that may come
        else:
            torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the objective's terms; logs each."""
        terms = self.objective(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_mean({f"loss/{name}": value for name, value in {**terms, "total": loss}.items()})
        return loss

    def log_mean(self, values: dict[str, Tensor]) -> None:
        """Log the mean of scalars over the epoch's batches: once an epoch, since ``self.log`` takes
        longer than a small head.
        """
        for name, value in values.items():
            self._logged.setdefault(name, []).append(value.detach())

    def on_train_epoch_end(self) -> None:
        """Hand the epoch's means to Lightning."""
        for name, values in self._logged.items():
            self.log(name, torch.stack(values).mean(), prog_bar=name == "loss/total")
        self._logged.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what an unfinished epoch has logged."""
        checkpoint["logged"] = self._logged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with what the unfinished epoch had logged."""
        self._logged = dict(checkpoint.get("logged", {}))

    def log_codes(self, u: Tensor) -> None:
        """Log how unbalanced the bits of relaxed codes ``u [B, K]`` are, and how far u is from its
        signs.
        """
        balance = (u >= 0).float().mean(0).sub(0.5).abs().mean()
        self.log_mean(
            {"codes/bit_balance": balance, "codes/quantisation_error": (1 - u.abs()).mean()}
        )

    def codes(self, batch: Batch) -> dict[str, Any]:
        """Packed codes uint8 ``[B, ceil(K/8)]`` and the rows ``index`` long [B] that they belong
        to.
        """
        return {"codes": pack_codes(self(batch)), "index": batch["index"]}

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Codes for the callbacks; loader 0 is the query split, loader 1 the database."""
        return self.codes(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """As :meth:`validation_step`."""
        return self.codes(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """As :meth:`validation_step`."""
        return self.codes(batch)

    def configure_optimizers(self) -> Any:
        """AdamW with one learning rate for the backbone and one for the rest, warm-up and decay by
        step.
        """
        backbone = list(self.network.parameters()) if self.network is not None else []
        own = {id(parameter) for parameter in backbone}
        head = [parameter for parameter in self.parameters() if id(parameter) not in own]
        groups = [{"params": head, "lr": self.learning_rate}]
        if backbone:
            groups.append({"params": backbone, "lr": self.backbone_learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)
        if not self.warmup_steps and not self.cosine_decay:
            return {"optimizer": optimizer}
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(self.warmup_steps, 1))
            fall = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / max(total, 1)))))
            return rise * (fall if self.cosine_decay else 1.0)

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }
