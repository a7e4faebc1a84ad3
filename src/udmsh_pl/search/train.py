"""An encoder for a collection, learned from its own pictures without labels."""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from numpy.typing import NDArray

from udmsh_pl.backbones import networks
from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, weights_id
from udmsh_pl.backbones.pixels import best_runner, forward_of
from udmsh_pl.data.batches import FeatureData
from udmsh_pl.features.batches import passes
from udmsh_pl.features.fused import FusedFeature, parts_of
from udmsh_pl.features.store import sample_rows
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.images.ahead import batched
from udmsh_pl.models import UDMSHPlus
from udmsh_pl.models.heads import FusedEncoder
from udmsh_pl.safe.profile import clock
from udmsh_pl.search.checkpoint import spec_of
from udmsh_pl.search.graph import HashHead, PixelEncoder, SignEncoder, write_network
from udmsh_pl.search.pictures import Read, Report
from udmsh_pl.search.spec import RERANK_DIMS, EncoderSpec
from udmsh_pl.similarity.losses import best_rotation

LEAST = 400  # pictures; fewer teach worse codes than ITQ makes (*ours*)
MOST = 10_000  # pictures that are learned from (*ours*: docs/choices.md)
MANY = 9_500  # pictures that are learned from for longer: MOST, of which some cannot be read
BITS = 64
GRID = 2
FUSED_FROM = 1000  # pictures that a fused feature is fitted to, for an encoder that has none
BATCH = 64  # pictures that the backbone sees at a time
TRAIN_BATCH = 256  # and the head, in training
FEW = 100  # pictures that torch encodes before OpenVINO has converted the backbone
FILL = 0.5  # weight of random axes beside those that few pictures have (*ours*)

Features = dict[str, NDArray[Any]]
_PAIR = ("global_feature", "feature_map")


@cache
def backbone() -> networks.BackboneInfo:
    """The default backbone's sizes."""
    return networks.backbone_info(OFFLINE_BACKBONE)


def backbone_key() -> str:
    """What identifies features of the default backbone, for the name of a folder."""
    kind = OFFLINE_BACKBONE, weights_id(OFFLINE_BACKBONE), backbone().image_size, GRID, "float16"
    key = " ".join(map(str, kind))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def feature_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the default backbone's two features."""
    channels = backbone().map_channels
    return {"global_feature": (backbone().global_dim,), "feature_map": (channels, GRID, GRID)}


def chosen(names: Sequence[str]) -> list[str]:
    """The pictures to learn from: all, or a fixed draw of 10,000."""
    return [names[row] for row in sample_rows(len(names), MOST).tolist()]


def extracted(
    reads: Iterator[Read], total: int, report: Report
) -> Iterator[tuple[list[Read], NDArray[np.float16]]]:
    """Batches of readable pictures and both features side by side, float16 [B, D + C g g]."""
    runner, content = best_runner() if total > FEW else "torch", weights_id(OFFLINE_BACKBONE)
    with clock("backbone"):
        side = backbone().image_size
        forward = forward_of(OFFLINE_BACKBONE, None, content, runner, side, GRID)
    for parts, batch in passes(_batches(reads, report), forward):
        flat = [part.reshape(len(part), -1) for part in parts]
        yield batch, np.concatenate(flat, axis=1, dtype=np.float16, casting="same_kind")
    forward_of.cache_clear()  # learning wants its memory


def _batches(reads: Iterator[Read], report: Report) -> Iterator[tuple[torch.Tensor, list[Read]]]:
    """Pixels of decoded pictures; the others are reported."""

    def decoded() -> Iterator[Read]:
        for read in reads:
            if read.picture is None:
                report.leave_out([read])
            else:
                yield read

    for batch in batched(decoded(), BATCH):
        pixels = [read.picture.pixels for read in batch if read.picture is not None]
        yield torch.from_numpy(np.stack(pixels)), batch


def steps_for(count: int) -> int:
    """Optimiser steps for so many pictures. *Ours* (docs/choices.md)."""
    if count >= MANY:
        return 1200
    return int(np.clip(300 * (count / 2000) ** 0.5, 200, 600))


def learn(
    features: Features, folder: Path, bits: int = BITS, least: int = LEAST, steps: int | None = None
) -> EncoderSpec:
    """Make an encoder of K bits from float16 ``global_feature [N, D]`` and ``feature_map [N, C, g,
    g]`` and write it to ``folder``; the note of its specification says what was done.

    Below ``least`` pictures nothing is trained: codes are ITQ of the fused features.
    """
    count = len(features["global_feature"])
    if count < least:
        encoder: FusedEncoder = _without_training(features, bits)
        note = (
            f"{count:,} pictures are too few to learn a hash from ({least} are needed): codes are "
            "signs of their fused features; once there are more, index anew with --retrain"
        )
    else:
        steps = steps or steps_for(count)
        encoder = train(features, bits, steps)
        note = f"udmsh-plus, {bits} bits, learned from {count:,} of your pictures in {steps} steps"
    built = networks.build_backbone(OFFLINE_BACKBONE)
    network = PixelEncoder(built, GRID, HashHead(encoder, None, RERANK_DIMS)).eval()
    return write_network(network, spec_of(network, built.info, None, False, note), folder)


def train(
    features: Features, bits: int, steps: int, seed: int = 0, batch: int = TRAIN_BATCH
) -> FusedEncoder:
    """Train ``udmsh-plus`` on frozen features by Lightning, as ``udmsh fit`` does, without logs and
    checkpoints; gives the encoder in eval mode, on the CPU. The seed decides the initial weights;
    the caller's random state stays as it is.
    """
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)  # which devices there are is of no interest here
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on loaders and loggers
            torch.manual_seed(seed)
            grid = features["feature_map"].shape[-1]
            model = UDMSHPlus(bits=bits, grid=grid, warmup_steps=min(50, steps // 4))
            alone = LightningEnvironment()  # one process, also inside a cluster's job
            trainer = Trainer(
                max_steps=steps, max_epochs=-1, devices=1, logger=False, plugins=[alone],
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                use_distributed_sampler=False,
            )  # fmt: skip
            with clock("steps"):
                trainer.fit(model, datamodule=FeatureData(TrainFeatures(features), batch))
    finally:
        log.setLevel(level)
    encoder: FusedEncoder = model.encoder.cpu().eval()
    return encoder


def encode_features(
    head: HashHead, features: Features
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Codes and re-rank features of backbone features, block by block."""
    made = []
    with torch.inference_mode():
        for start in range(0, len(features["global_feature"]), 512):
            rows = slice(start, start + 512)
            pair = (torch.from_numpy(features[name][rows]).float() for name in _PAIR)
            made.append([part.numpy() for part in head(*pair)])
    codes, reranks = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return codes, reranks


def fused_feature(features: Features, dims: int = RERANK_DIMS) -> FusedFeature:
    """A fused feature fitted to these pictures; axes beyond their rank are random, at half weight,
    so that pictures which come later differ there.
    """
    parts = _parts(features)
    fusion = FusedFeature(_sizes(features), dims)
    fusion.fit(parts)
    rank = min(dims, len(parts) - 1)
    if rank < dims:
        width, missing = parts.shape[1], dims - rank
        known = fusion.axes[:, :rank]
        drawn = torch.randn(width, missing, generator=torch.Generator().manual_seed(0))
        axes = torch.linalg.qr(drawn - known @ (known.T @ drawn))[0]
        fusion.axes[:, rank:] = axes * FILL * ((width - rank) / missing) ** 0.5
    return fusion


def with_rerank(
    network: PixelEncoder, spec: EncoderSpec, reads: Iterator[Read], folder: Path
) -> EncoderSpec:
    """Write an encoder to ``folder`` with a re-rank feature that is fitted to these pictures."""
    forward = torch.inference_mode()(network.features)
    found = [parts for parts, _ in passes(_batches(reads, Report()), forward)]
    features = dict(zip(_PAIR, map(np.concatenate, zip(*found, strict=True)), strict=True))
    network.head.own_fusion, network.head.dims = fused_feature(features), RERANK_DIMS
    return write_network(network.eval(), replace(spec, dims=RERANK_DIMS, files={}), folder)


def _without_training(features: Features, bits: int) -> SignEncoder:
    dims = max(RERANK_DIMS, bits)
    encoder = SignEncoder(*_sizes(features), bits, dims)
    encoder.fusion.load_state_dict(fused_feature(features, dims).state_dict())
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(bits, bits, generator=generator))[0]
    if len(features["global_feature"]) > bits:  # enough to rotate towards their signs
        leading = encoder.fusion.project(_parts(features))[:, :bits] @ turn
        turn = turn @ best_rotation(leading, 50)
    weight: Any = encoder.head[0].weight
    with torch.no_grad():
        weight.zero_()
        weight[:, :bits] = turn.T
    return encoder


def _parts(features: Features) -> torch.Tensor:
    feature, feature_map = (features[name] for name in _PAIR)
    return parts_of(feature, feature_map, np.arange(len(feature)))


def _sizes(features: Features) -> tuple[int, int]:
    """D, and the length of the flattened feature map."""
    feature, feature_map = (features[name] for name in _PAIR)
    return feature.shape[1], int(np.prod(feature_map.shape[1:]))
