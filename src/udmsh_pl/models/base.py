"""What every learned method shares: its options, a backbone, an encoder, a training step, codes.

A method is a dataclass: its annotated attributes are its options, on the command line, in a yaml
and in checkpoints. It gives the terms of its loss (:meth:`HashingModule.objective`) and, where it
needs one, a teacher.
"""

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, Backbone, BackboneFeatures, backbone_info
from udmsh_pl.errors import InputError, check_class_options
from udmsh_pl.features.seeds import seed_of
from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import HasTrainFeatures, Rows, TrainFeatures
from udmsh_pl.models.finetuning import (
    channels_last,
    freeze_unused,
    of_all_processes,
    refuse_sync_batchnorm,
)
from udmsh_pl.models.heads import Branches, DualBranchEncoder, Pooling
from udmsh_pl.retrieval import pack_codes


@dataclass(kw_only=True, eq=False, repr=False)
class HashingModule(LightningModule, ABC):
    """A backbone, an encoder and an objective; subclasses give the objective.

    The way of a training: :meth:`fit_teacher` learns from the train features,
    :meth:`load_teacher` takes over what encoding or the loss needs of it, :meth:`train_rows` names
    the arrays whose rows travel in a batch, :meth:`teach` adds what the teacher says of the batch,
    :meth:`objective` gives the terms of the loss.

    A subclass is decorated with ``@dataclass(kw_only=True, eq=False, repr=False)``, annotates its
    options, and builds what it needs in ``__post_init__`` after ``super().__post_init__()``.

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
        fused: read the fused feature of `udmsh-plus` in the place of a frozen backbone's global
            feature (:mod:`udmsh_pl.features.fused`), for a comparison on equal features
        batch_norm: normalise hidden layers over the batch
        learning_rate: Adam's, for the encoder
        backbone_learning_rate: Adam's, for a backbone that is fine-tuned
        weight_decay: Adam's (decoupled), 0 for none
        warmup_steps: steps over which the learning rate rises to its value
        cosine_decay: let the learning rate fall to 0 along half a cosine over the training
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
    fused: bool = False
    batch_norm: bool = False
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 0.0
    warmup_steps: int = 0
    cosine_decay: bool = False
    gradient_checkpointing: bool = False

    fuses: ClassVar[bool] = False  # whether the method fuses the backbone's features itself
    # options of earlier versions that checkpoints name and that nothing reads any more
    former_options: ClassVar[frozenset[str]] = frozenset(
        {"gather_batch", "trunk_learning_rate", "itq_bits"}
    )

    def __post_init__(self) -> None:
        check_class_options(self)
        super().__init__()
        if self.fused and self.finetune:
            raise InputError("--model.fused is for a frozen backbone; give --model.finetune false")
        self.save_hyperparameters()
        self.backbone_info = backbone_info(self.backbone, self.weights)
        self.encoder: Any = self.build_encoder()
        self.network: Backbone | None = (
            channels_last(self.backbone, self.weights) if self.finetune else None
        )
        # in a list, so that it is neither trained nor saved
        self._frozen_backbone: list[Backbone] = []
        self._logged: dict[str, list[Tensor]] = {}  # of the epoch so far

    def build_encoder(self) -> Any:
        """Build the encoder, of :mod:`udmsh_pl.models.heads` or alike."""
        info = self.backbone_info
        return DualBranchEncoder(
            info.global_dim, info.map_channels, self.bits, self.hidden, self.spatial_hidden,
            self.branches, self.pooling, self.batch_norm,
        )  # fmt: skip

    def check_range(self, name: str, most: float = math.inf, optional: bool = False) -> None:
        """Refuse an option below 0 or above ``most`` by an InputError; ``optional`` allows None."""
        value = getattr(self, name)
        if not (optional if value is None else 0 <= value <= most):
            limits = f"from 0 to {most}" if most < math.inf else "of at least 0"
            null = ", or null" if optional else ""
            raise InputError(f"{name} is {value}; give --model.{name} a number {limits}{null}")

    # what a method learns from

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Learn what the objective needs, by :meth:`TrainFeatures.teacher`; by default nothing."""
        return {}

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`fit_teacher` gave and is no array of the train images."""

    @property
    def used_features(self) -> tuple[int, ...]:
        """Places in :class:`BackboneFeatures` that the encoder reads."""
        return {"dual": (0, 1), "global": (0,), "spatial": (1,)}[self.branches]

    def train_rows(self, features: TrainFeatures) -> Rows:
        """Arrays ``[N, ...]`` of the train images whose rows a train batch holds, by name: cached
        features that the encoder or the teacher reads, and arrays of the teacher.
        """
        names = ("global_feature", "feature_map")[: 1 if self.branches == "global" else 2]
        return {name: features.arrays[name] for name in names if name in features.arrays}

    def view_rows(self, features: TrainFeatures) -> Rows:
        """:meth:`train_rows` of a method that learns from two views; an InputError without them."""
        if "views" not in features.arrays:
            mend = "give --data.views a number of at least 2"
            raise InputError(f"{type(self).__name__} trains on random views; {mend}")
        names = ("views", "view_maps")[: 1 if self.branches == "global" else 2]
        return {name: features.arrays[name] for name in names}

    def near_images(self, features: TrainFeatures) -> tuple[NDArray[np.int64], int] | None:
        """Rows ``[N, M]`` of the M nearest of each train image, and how many of them join an image
        in a batch (:class:`udmsh_pl.data.batches.Shuffle`); None for plain shuffled batches.
        """
        return None

    # a training step

    def teach(self, batch: Batch) -> Batch:
        """Add what the teacher says of the images of the global batch; nothing has a gradient."""
        return batch

    @abstractmethod
    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss on a train batch, by name and weighted; their sum is minimised."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the objective's terms; logs each. The objective runs in at least float32."""
        with torch.autocast(self.device.type, enabled=False):
            terms = self.objective(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_mean({f"loss/{name}": value for name, value in {**terms, "total": loss}.items()})
        return loss

    def logits(self, batch: Batch) -> Tensor:
        """Encoder output before tanh, ``[B, K]``, of images or cached features, float32 or more."""
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
        wide: Tensor = logits if logits.dtype == torch.float64 else logits.float()
        return wide

    def network_precision(self) -> AbstractContextManager[Any]:
        """The context of ``--trainer.precision``, in which a network runs inside an objective."""
        trainer = self._trainer
        return nullcontext() if trainer is None else trainer.precision_plugin.forward_context()

    def backbone_features(self, image: Tensor) -> BackboneFeatures:
        """The backbone's features of images ``[B, 3, H, W]``; no gradient when it is frozen."""
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

    def _of_all(self, values: Tensor) -> Tensor:
        share = self.finetune and self.training  # where it is frozen, batches are whole
        return of_all_processes(self, values) if share else values

    # codes

    def forward(self, batch: Batch) -> Tensor:
        """Relaxed codes u in (-1, 1), ``[B, K]``; the code is their sign, with sign(0) = +1."""
        return torch.tanh(self.logits(batch))

    def codes(self, batch: Batch) -> dict[str, Any]:
        """Packed codes uint8 ``[B, ceil(K/8)]`` and the rows ``index`` long [B] they belong to."""
        return {"codes": pack_codes(self(batch)), "index": batch["index"]}

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Codes for the callbacks; loader 0 is the query split, loader 1 the database."""
        return self.codes(batch)

    test_step = validation_step
    predict_step = validation_step

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        """Make a backbone that is trained ready for several processes."""
        refuse_sync_batchnorm(self.trainer, self.network)
        if self.network is not None and stage == "fit":
            freeze_unused(self.network, self.used_features)

    def on_fit_start(self) -> None:
        """Fit the teacher, or open the one that another run or process has fitted."""
        self.load_teacher(self.fit_teacher(self.train_features))

    @property
    def train_features(self) -> TrainFeatures:
        """The train features of the trainer's data module."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, HasTrainFeatures):
            raise InputError(
                "training needs a data module of udmsh_pl.data (trainer.fit(model, datamodule=...))"
            )
        return datamodule.train_features

    def on_train_start(self) -> None:
        """Count the next epoch after a checkpoint from an epoch's last batch.

        Lightning takes the next epoch for the rest of the finished one and neither counts nor
        announces it. A second resume would then repeat it.
        """
        progress = self.trainer.fit_loop.epoch_progress.current
        if progress.completed == progress.ready:
            self.trainer.fit_loop.reset_restart_stage()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step, and complete its batch: the images of all processes, and what the teacher
        says of them.

        The random numbers of a step (dropout) depend on seed and step alone: a resumed run repeats
        them, and processes that share a batch draw alike. Where the backbone is frozen, every
        process has the whole batch. Where it is trained, each process gathers the other images'
        features; all compute head and loss for all.
        """
        seed = seed_of(self.trainer.global_step, 0)
        if self.device.type == "cpu":
            # torch.manual_seed spends 1 ms on a queue for GPUs that may come
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        batch |= {name: self._of_all(value) for name, value in batch.items() if name != "image"}
        with torch.no_grad():
            batch |= self.teach(batch)

    def log_mean(self, values: dict[str, Tensor]) -> None:
        """Log the mean of scalars over an epoch, once: ``self.log`` is slower than a small head."""
        for name, value in values.items():
            self._logged.setdefault(name, []).append(value.detach())

    def log_codes(self, u: Tensor) -> None:
        """Log how unbalanced the bits of relaxed codes ``u [B, K]`` are, and how far from signs."""
        balance = (u >= 0).float().mean(0).sub(0.5).abs().mean()
        self.log_mean(
            {"codes/bit_balance": balance, "codes/quantisation_error": (1 - u.abs()).mean()}
        )

    def on_train_epoch_end(self) -> None:
        """Hand the epoch's means to Lightning."""
        for name, values in self._logged.items():
            here = torch.stack([value.to(self.device) for value in values])  # resumed on the CPU
            self.log(name, here.mean(), prog_bar=name == "loss/total")
        self._logged.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what an unfinished epoch has logged."""
        checkpoint["logged"] = self._logged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with what the unfinished epoch had logged; the backbone was ``trunk`` in 0.1.0."""
        self._logged = dict(checkpoint.get("logged", {}))
        checkpoint["state_dict"] = {
            f"network.{name.removeprefix('trunk.')}" if name.startswith("trunk.") else name: value
            for name, value in checkpoint["state_dict"].items()
        }

    def configure_optimizers(self) -> Any:
        """AdamW with a learning rate of the backbone's own, warm-up and decay by step."""
        slow = [] if self.network is None else list(self.network.parameters())
        own = {id(parameter) for parameter in slow}
        head = [parameter for parameter in self.parameters() if id(parameter) not in own]
        groups: list[dict[str, Any]] = [{"params": head, "lr": self.learning_rate}]
        if slow:
            groups.append({"params": slow, "lr": self.backbone_learning_rate})
        # torch's fused step unscales gradients itself, which Lightning refuses when mixed precision
        # and gradient clipping come together
        mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        fused = not (self.trainer.gradient_clip_val and mixed)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=fused)
        if not self.warmup_steps and not self.cosine_decay:
            return {"optimizer": optimizer}
        total = int(self.trainer.estimated_stepping_batches)
        # Lightning made the loader to count the steps, before a checkpoint set its place in the
        # epoch. Make it again: else a resumed run would begin its epoch anew
        self.trainer.fit_loop._combined_loader = None
        scheduler = schedule(optimizer, self.warmup_steps, self.cosine_decay, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, cosine_decay: bool, total: int
) -> LambdaLR:
    """A factor on the rates: a rise in ``warmup_steps``, half a cosine to 0 in ``total`` steps."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(warmup_steps, 1))
        fall = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / max(total, 1)))))
        return rise * (fall if cosine_decay else 1.0)

    return LambdaLR(optimizer, factor)


def view(batch: Batch, number: int) -> Batch:
    """The batch as seen through the first (0) or the second (1) of its two random views."""
    names = {"views": "global_feature", "view_maps": "feature_map"}
    return {new: batch[old][:, number] for old, new in names.items() if old in batch}
