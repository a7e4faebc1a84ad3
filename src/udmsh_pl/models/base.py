"""What every learned method shares: backbone, encoder, optimiser, the global batch and the way to
codes.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, Backbone, BackboneFeatures, backbone_info
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import HasTrainFeatures, TrainFeatures
from udmsh_pl.models.encoder import DualBranchEncoder
from udmsh_pl.models.finetuning import (
    channels_last,
    freeze_unused,
    of_all_processes,
    refuse_sync_batchnorm,
)
from udmsh_pl.models.optimiser import adamw, schedule, total_steps
from udmsh_pl.models.options import Branches, Pooling
from udmsh_pl.models.renamed import RENAMED, WITHOUT_EFFECT, with_new_names
from udmsh_pl.models.training import ObjectiveModule
from udmsh_pl.retrieval import pack_codes
from udmsh_pl.safe.constructors import check_constructor
from udmsh_pl.similarity.precision import at_least_float32


class HashingModule(ObjectiveModule):
    """A backbone, an encoder and an objective; subclasses give the objective, and a teacher where
    they need one.

    A subclass with options of its own writes a constructor that sets them after
    ``super().__init__(**options)``, with ``**options: Unpack[ModelOptions]``
    (:mod:`udmsh_pl.models.options`).

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
        gradient_checkpointing: recompute the backbone's activations in the backward pass to save
            memory
        gather_batch: without effect, for one release: processes always share their batches
        trunk_learning_rate: old name of backbone_learning_rate, for one release
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_constructor(cls, HashingModule)

    def __init__(
        self,
        *,
        bits: int = 64,
        backbone: str = OFFLINE_BACKBONE,
        weights: str | None = None,
        finetune: bool = False,
        branches: Branches = "dual",
        pooling: Pooling = "average",
        hidden: int = 1024,
        spatial_hidden: int = 256,
        grid: int = 2,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        backbone_learning_rate: float = 1e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        cosine_decay: bool = False,
        gradient_checkpointing: bool = False,
        gather_batch: bool = True,
        trunk_learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        renamed = with_new_names(
            {
                "backbone_learning_rate": backbone_learning_rate,
                "trunk_learning_rate": trunk_learning_rate,
            }
        )
        # those of subclasses too: they are in the frames that called
        self.save_hyperparameters(ignore=[*RENAMED, *WITHOUT_EFFECT])
        self.hparams.update(renamed)
        self.bits, self.backbone, self.weights, self.finetune = bits, backbone, weights, finetune
        self.branches, self.pooling = branches, pooling
        self.hidden, self.spatial_hidden, self.grid = hidden, spatial_hidden, grid
        self.batch_norm = batch_norm
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.backbone_learning_rate: float = renamed["backbone_learning_rate"]
        self.warmup_steps, self.cosine_decay = warmup_steps, cosine_decay
        self.gradient_checkpointing = gradient_checkpointing
        self.backbone_info = backbone_info(backbone, weights)
        self.encoder = self.build_encoder()
        self.network: Backbone | None = channels_last(backbone, weights) if finetune else None
        # in a list, so that it is neither trained nor saved
        self._frozen_backbone: list[Backbone] = []

    def build_encoder(self) -> Any:
        """What turns backbone features into logits: a module with
        ``logits(global_feature, feature_map)``.

        The base's constructor calls it: options of a subclass are in ``self.hparams`` by then, not
        yet attributes.
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
        """Cached arrays that a train batch holds; copying others costs more than many a head."""
        both = ("global_feature", "feature_map")
        return both[:1] if self.branches == "global" else both

    @property
    def used_features(self) -> tuple[int, ...]:
        """Places in :class:`BackboneFeatures` that the encoder reads."""
        return {"dual": (0, 1), "global": (0,), "spatial": (1,)}[self.branches]

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Learn from the train features what the objective needs, before training, in every
        process (see :meth:`TrainFeatures.teacher`).
        """
        return {}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`fit_teacher` gave."""

    def setup(self, stage: str) -> None:
        """Make a backbone that is trained ready for several processes."""
        refuse_sync_batchnorm(self.trainer, self.network)
        if self.network is not None and stage == "fit":
            freeze_unused(self.network, self.used_features)

    def on_fit_start(self) -> None:
        """Fit the teacher, or open the one that another run or process has fitted."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, HasTrainFeatures):
            raise InputError(
                "training needs a data module of udmsh_pl.data (trainer.fit(model, datamodule=...))"
            )
        self.load_teacher(self.fit_teacher(datamodule.train_features))

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """What the backbone says of images ``[B, 3, H, W]``; no gradient when it is frozen."""
        image = image.contiguous(memory_format=torch.channels_last)
        if self.network is not None:
            if self.gradient_checkpointing and self.training:
                recomputed = torch.utils.checkpoint.checkpoint(
                    self.network, image, use_reentrant=False
                )
                return cast(BackboneFeatures, recomputed)
            return cast(BackboneFeatures, self.network(image))
        if not self._frozen_backbone:
            self._frozen_backbone.append(
                channels_last(self.backbone, self.weights).requires_grad_(False).to(self.device)
            )
        with torch.no_grad():
            return cast(BackboneFeatures, self._frozen_backbone[0](image))

    def logits(self, batch: Batch) -> Tensor:
        """Encoder output before tanh, ``[B, K]``, from a batch of images or of cached features; at
        least float32.
        """
        with self.network_precision():
            if "image" in batch and (self.finetune or "global_feature" not in batch):
                feature, feature_map = (
                    self._of_all(values) if place in self.used_features else values
                    for place, values in enumerate(self.backbone_features(batch["image"]))
                )  # fmt: skip
                if not self.finetune:
                    feature_map = torch.nn.functional.adaptive_avg_pool2d(feature_map, self.grid)
                logits = self.encoder.logits(feature, feature_map)
            else:
                logits = self.encoder.logits(batch["global_feature"], batch.get("feature_map"))
        return at_least_float32(logits)

    def network_precision(self) -> AbstractContextManager[Any]:
        """What ``--trainer.precision`` asks of a network; an objective runs outside of it, in at
        least float32.
        """
        trainer = self._trainer
        return nullcontext() if trainer is None else trainer.precision_plugin.forward_context()

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As in the base, of the global batch: what is behind the backbone every process computes
        for all images. Batches come whole where it is frozen; one that is trained sees this
        process's images, and :meth:`logits` gathers what it says of them.
        """
        others = {name: self._of_all(value) for name, value in batch.items() if name != "image"}
        return super().training_step(batch | others, batch_idx)

    def _of_all(self, values: Tensor) -> Tensor:
        share = self.finetune and self.training  # what is frozen has the whole batch
        return of_all_processes(self, values) if share else values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the backbone as it is named now: it was ``trunk`` in 0.1.0."""
        super().on_load_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            f"network.{name.removeprefix('trunk.')}" if name.startswith("trunk.") else name: value
            for name, value in checkpoint["state_dict"].items()
        }

    def codes(self, batch: Batch) -> dict[str, Any]:
        """Packed codes uint8 ``[B, ceil(K/8)]`` and the rows ``index`` long [B] they belong to."""
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
        rates = self.learning_rate, self.backbone_learning_rate
        optimizer = adamw(self, self.network, self.trainer, rates, self.weight_decay)
        if not self.warmup_steps and not self.cosine_decay:
            return {"optimizer": optimizer}
        total = total_steps(self.trainer)
        scheduler = schedule(optimizer, self.warmup_steps, self.cosine_decay, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
