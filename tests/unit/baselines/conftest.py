"""Tiny learned methods, a batch for them, and a few steps of training without a trainer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from udmsh_pl.features.store import Batch
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import HashingModule

BITS, ROWS, DIM = 8, 12, 512


@pytest.fixture
def batch() -> Batch:
    """Twelve images in three groups, uncentred features as after a ReLU, and two views of each."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(3, DIM, generator=generator).relu()
    clean = (groups.repeat(4, 1) + 0.7 * torch.randn(ROWS, DIM, generator=generator)).relu()
    views = (clean[:, None] + 0.3 * torch.randn(ROWS, 2, DIM, generator=generator)).relu()
    maps = torch.randn(ROWS, 2, DIM, 2, 2, generator=generator)
    return {
        "global_feature": clean,
        "feature_map": maps[:, 0],
        "views": views,
        "view_maps": maps,
        "labels": torch.zeros(ROWS, 1, dtype=torch.bool),
        "index": torch.arange(ROWS),
    }


@pytest.fixture
def build() -> Callable[..., Any]:
    """Function that builds a method with 8 bits on a backbone that is never run."""

    def make(kind: type[HashingModule], **options: Any) -> HashingModule:
        torch.manual_seed(0)
        tiny = {
            "bits": BITS,
            "backbone": "resnet10t",
            "weights": "random",
            "hidden": 16,
        }
        return kind(**(tiny | options))

    return make


@pytest.fixture
def teach() -> Callable[..., TrainFeatures]:
    """Function that fits a method's teacher on train features ``[N, D]`` and gives them."""

    def fit(method: HashingModule, features: Tensor) -> TrainFeatures:
        stored = TrainFeatures({"global_feature": features.numpy().astype(np.float16)})
        method.load_teacher(method.fit_teacher(stored))
        return stored

    return fit


@pytest.fixture
def losses_of_training() -> Callable[[HashingModule, Batch], list[float]]:
    """Function that gives the total loss before each of forty steps of Adam on one batch."""

    def train(method: HashingModule, batch: Batch) -> list[float]:
        optimizer = torch.optim.Adam(method.encoder.parameters(), lr=3e-3)
        losses = []
        for _ in range(40):
            loss = torch.stack(list(method.objective(batch).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    return train
