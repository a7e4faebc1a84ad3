"""Shallow methods as models: ``udmsh fit --model ITQ`` leaves a file, ``predict`` reads it."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from udmsh_pl import baselines
from udmsh_pl.backbones.networks import OFFLINE_BACKBONE
from udmsh_pl.baselines.base import LinearHash, ShallowHash
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays, Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.heads import LinearEncoder, check_bits

Name = Literal["ITQ", "LSH", "PCAH", "SGH", "SH", "SpH"]
METHODS: dict[str, type[ShallowHash]] = {name: getattr(baselines, name) for name in get_args(Name)}


@dataclass(frozen=True)
class ShallowSettings:
    """What decides a fit, beside the train features."""

    method: Name
    bits: int
    seed: int


class ShallowEncoder(nn.Module):
    """A fitted shallow method in the place of an encoder; what it learned is its only state."""

    def __init__(self, settings: ShallowSettings) -> None:
        super().__init__()
        self.method = METHODS[settings.method](settings.bits, settings.seed)

    def logits(self, global_feature: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """Features ``[B, D]`` -> what the method takes the signs of, ``[B, K]``."""
        features = global_feature.detach().float().cpu().numpy()
        return torch.from_numpy(self.method.project(features)).to(global_feature.device)

    def as_linear(self) -> LinearEncoder | None:
        """The same as a module of torch, for graphs; None for methods that are not linear."""
        if not isinstance(self.method, LinearHash):
            return None
        learned = self.get_extra_state()
        return LinearEncoder(*learned["directions"].shape).filled(**learned)

    def get_extra_state(self) -> dict[str, Tensor]:
        """What the method learned, by name; nothing before it is fitted."""
        known = {name: getattr(self.method, name, None) for name in self.method.learned}
        if any(value is None for value in known.values()):
            return {}
        return {name: torch.from_numpy(np.array(value)) for name, value in known.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take over what a method learned; an InputError where it is of another method."""
        if state and set(state) != set(self.method.learned):
            raise InputError(
                f"{type(self.method).__name__} has learned {', '.join(self.method.learned)}, the "
                f"file holds {', '.join(state)}; it is another method's, or damaged"
            )
        for name, value in state.items():
            setattr(self.method, name, value.cpu().numpy() if value.ndim else value.item())


def fit_shallow(arrays: Arrays, settings: ShallowSettings) -> dict[str, Tensor]:
    """What a method learns from cached features."""
    encoder = ShallowEncoder(settings)
    encoder.method.fit(np.asarray(arrays["global_feature"], dtype=np.float32))
    return encoder.get_extra_state()


class Shallow(HashingModule):
    """A shallow method, fitted to the frozen backbone's features at once instead of in steps.

    ``--model ITQ`` is short for ``--model udmsh_pl.baselines.shallow.Shallow --model.method ITQ``.

    Args:
        bits: code length K
        method: which one; see its class in :mod:`udmsh_pl.baselines`
        seed: decides every random choice of the method
        backbone: see :class:`HashingModule`
        weights: see :class:`HashingModule`
        finetune: must be false
        grid: a data module keeps feature maps of grid x grid positions, which go unused
        fused: see :class:`HashingModule`
    """

    def __init__(
        self,
        *,
        bits: int = 64,
        method: Name = "ITQ",
        seed: int = 0,
        backbone: str = OFFLINE_BACKBONE,
        weights: str | None = None,
        finetune: bool = False,
        grid: int = 2,
        fused: bool = False,
    ) -> None:
        if finetune:
            raise InputError(f"{method} learns no backbone; leave --model.finetune out")
        check_bits(bits)
        self.settings = ShallowSettings(method, bits, seed)
        super().__init__(bits=bits, backbone=backbone, weights=weights, grid=grid, fused=fused)
        own: dict[str, Any] = {"bits": bits, "method": method, "seed": seed, "backbone": backbone}
        own |= {"weights": weights, "finetune": finetune, "grid": grid, "fused": fused}
        own |= {name: value for name, value in self.hparams.items() if name.startswith("_")}
        self.hparams.clear()  # a checkpoint names options that mean something, and Lightning's own
        self.save_hyperparameters(own)

    def build_encoder(self) -> ShallowEncoder:
        """The method, not fitted yet."""
        return ShallowEncoder(self.settings)

    def fit_teacher(self, features: TrainFeatures) -> dict[str, Tensor]:
        """Fit the method; what it learned is all there is to learn."""
        return features.teacher("shallow", self.settings, fit_shallow)

    def load_teacher(self, state: dict[str, Tensor]) -> None:
        """Take over what was learned."""
        self.encoder.set_extra_state(state)

    def setup(self, stage: str) -> None:
        """Refuse processes that would have nothing to share."""
        super().setup(stage)
        if stage == "fit" and self.trainer.world_size > 1:
            mend = "leave --trainer.strategy and --trainer.devices out"
            raise InputError(f"{self.settings.method} is fitted by one process; {mend}")

    def on_fit_start(self) -> None:
        """Fit; there are no epochs after that."""
        super().on_fit_start()
        self.trainer.fit_loop.max_epochs = 0

    def on_fit_end(self) -> None:
        """Keep the method where checkpoints of this run are kept."""
        callback = self.trainer.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            path = Path(callback.dirpath) / f"{self.settings.method}-{self.bits}.ckpt"
            self.trainer.save_checkpoint(path, weights_only=True)
            print(f"{self.settings.method}, {self.bits} bits: {path}")

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """There are no steps, so there is none."""
        raise NotImplementedError(f"{self.settings.method} is not trained in steps")

    def configure_optimizers(self) -> None:
        """None: nothing is left to optimise, and Lightning need not say so."""
        warnings.filterwarnings("ignore", message=".*this fit will run with no optimizer")
