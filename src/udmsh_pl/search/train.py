"""An encoder for a collection, learned from its own pictures without labels."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, backbone_info, build_backbone, weights_id
from udmsh_pl.features.forward import Runner, forward_of
from udmsh_pl.models.heads import FusedEncoder, FusedFeature, side_by_side
from udmsh_pl.search.learned import fit_udmsh_plus, spec_of
from udmsh_pl.search.network import HashHead, PixelEncoder, SignEncoder
from udmsh_pl.search.package import has_openvino, write_network
from udmsh_pl.search.spec import RERANK_DIMS, EncoderSpec
from udmsh_pl.similarity.losses import best_rotation

LEAST = 400  # pictures; fewer teach worse codes than ITQ makes (*ours*)
MOST = 10_000  # pictures that are learned from
BITS = 64
GRID = 2
FUSED_FROM = 1000  # pictures that a fused feature is fitted to, for an encoder that has none
BATCH = 64
FEW = 100  # pictures that torch encodes before OpenVINO has converted the backbone
FILL = 0.5  # weight of random axes beside those that few pictures have (*ours*)

Features = dict[str, NDArray[Any]]


def image_size() -> int:
    """Side in pixels of the default backbone's input."""
    return backbone_info(OFFLINE_BACKBONE).image_size


def chosen(names: Sequence[str]) -> list[str]:
    """The pictures to learn from: all, or a fixed draw of 10,000."""
    if len(names) <= MOST:
        return list(names)
    rows = np.random.default_rng(0).permutation(len(names))[:MOST]
    return [names[row] for row in np.sort(rows).tolist()]


def backbone_features(pixels: Iterator[NDArray[np.uint8]], total: int) -> Features:
    """Float32 ``global_feature [N, D]`` and ``feature_map [N, C, g, g]`` of prepared pictures,
    uint8 [3, S, S] each, with a bar on stderr; nothing of none.
    """
    openvino = has_openvino() and not torch.cuda.is_available() and total > FEW
    runner: Runner = "openvino" if openvino else "torch"
    forward = forward_of(
        OFFLINE_BACKBONE, None, weights_id(OFFLINE_BACKBONE), runner, image_size(), GRID
    )
    every = 0.5 if sys.stderr.isatty() else 10
    found: list[tuple[NDArray[Any], NDArray[Any]]] = []
    batch: list[NDArray[np.uint8]] = []

    def flush() -> None:
        parts = forward(torch.from_numpy(np.stack(batch)))
        found.append((parts[0].float().cpu().numpy(), parts[1].float().cpu().numpy()))
        batch.clear()

    with tqdm(pixels, total=total, unit="img", desc="features", mininterval=every) as bar:
        for one in bar:
            batch.append(one)
            if len(batch) == BATCH:
                flush()
    if batch:
        flush()
    if not found:
        return {}
    return {name: np.concatenate([one[place] for one in found]) for place, name in enumerate(_PAIR)}


def steps_for(count: int) -> int:
    """Optimiser steps for so many pictures."""
    return int(np.clip(300 * (count / 2000) ** 0.5, 200, 600))


def learn(features: Features, folder: Path, bits: int = BITS) -> tuple[EncoderSpec, HashHead, str]:
    """Make an encoder from the features of a collection and write it to ``folder``.

    Below 400 pictures nothing is trained: the codes are ITQ of the fused features.

    Returns:
        The specification, the head that turns such features into codes, and a line that says what
        was done.
    """
    count = len(features["global_feature"])
    if count < LEAST:
        encoder: FusedEncoder = _without_training(features, bits)
        told = (
            f"{count:,} pictures are too few to learn a hash from ({LEAST} are needed): codes are "
            "signs of their fused features; once there are more, index anew with --retrain"
        )
    else:
        steps = steps_for(count)
        encoder = fit_udmsh_plus(features, bits, steps)
        told = f"udmsh-plus, {bits} bits, learned from {count:,} of your pictures in {steps} steps"
    head = HashHead(encoder, None, RERANK_DIMS).eval()
    backbone = build_backbone(OFFLINE_BACKBONE)
    network = PixelEncoder(backbone, GRID, head).eval()
    spec = spec_of(network, backbone, None, tuned=False, note=told)
    return write_network(network, spec, folder), head, told


def encode_features(
    head: HashHead, features: Features
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Codes and re-rank features of backbone features, block by block."""
    codes, reranks = [], []
    with torch.inference_mode():
        for start in range(0, len(features["global_feature"]), 512):
            part = slice(start, start + 512)
            pair = (torch.from_numpy(features[name][part]) for name in _PAIR)
            code, rerank = head(*pair)
            codes.append(code.numpy())
            reranks.append(rerank.numpy())
    return np.concatenate(codes), np.concatenate(reranks)


def fused_feature(features: Features, dims: int = RERANK_DIMS) -> FusedFeature:
    """A fused feature fitted to these pictures; axes beyond their rank are random ones at half
    weight, so that pictures which come later differ there.
    """
    parts = _parts(features)
    fusion = FusedFeature((features["global_feature"].shape[1], _map_dim(features)), dims)
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
    network: PixelEncoder, spec: EncoderSpec, pixels: Iterator[NDArray[np.uint8]], folder: Path
) -> EncoderSpec:
    """Give an encoder without re-rank feature one that is fitted to these pictures, and write it to
    ``folder``.
    """
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in _PAIR}
    with torch.inference_mode():
        for one in pixels:
            features = network.backbone_features(torch.from_numpy(one[None]))
            for name, part in zip(_PAIR, features, strict=True):
                found[name].append(part.numpy())
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    network.head.own_fusion, network.head.dims = fused_feature(joined), RERANK_DIMS
    return write_network(network.eval(), replace(spec, dims=RERANK_DIMS, files={}), folder)


_PAIR = ("global_feature", "feature_map")


def _without_training(features: Features, bits: int) -> SignEncoder:
    dims = max(RERANK_DIMS, bits)
    encoder = SignEncoder(features["global_feature"].shape[1], _map_dim(features), bits, dims)
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
    feature, feature_map = (torch.from_numpy(features[name]) for name in _PAIR)
    return side_by_side(feature, feature_map)


def _map_dim(features: Features) -> int:
    return int(np.prod(features["feature_map"].shape[1:]))
