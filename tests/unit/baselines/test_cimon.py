"""CIMON: agreement, confidence and consistency against loops; clusters against plain groups."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.baselines import CIMON
from udmsh_pl.baselines.cimon import ClusterSettings, agreed_similarity, fit_clusters
from udmsh_pl.errors import InputError
from udmsh_pl.similarity.losses import nt_xent_loss


def test_only_what_distance_and_clusters_agree_on_has_a_sign() -> None:
    distances = torch.tensor([[0.0, 0.2, 0.6], [0.2, 0.0, 0.2], [0.6, 0.2, 0.0]])
    actual = agreed_similarity(distances, torch.tensor([0, 0, 1]), mode=0.3)
    # 0 and 1: near, one cluster; 0 and 2: far, two clusters; 1 and 2: near, but two clusters
    assert actual.tolist() == [[1, 1, -1], [1, 1, 0], [-1, 0, 1]]


def test_clusters_are_the_groups_where_groups_are_plain() -> None:
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 30)
    features = 5 * np.eye(4, 16)[groups] + 0.3 * draw.standard_normal((120, 16))
    found = fit_clusters({"global_feature": features.astype(np.float16)}, ClusterSettings(4, 10))
    pairs = {(int(group), int(one)) for group, one in zip(groups, found["cluster"], strict=True)}
    assert len(pairs) == 4
    assert len({one for _, one in pairs}) == 4


def test_objective_equals_the_definition(
    batch: Any, build: Callable[..., Any], teach: Callable[..., None]
) -> None:
    method = build(CIMON, clusters=3)
    batch["cluster"] = method.fit_teacher(teach(method, batch["global_feature"]))["cluster"]
    cluster, fitted = batch["cluster"].numpy(), method.structure.half_gaussians
    codes, similarities, weights = [], [], []
    for number in (0, 1):
        view = batch["views"][:, number]
        codes.append(method({"global_feature": view}).detach())
        unit = view.double().numpy() / np.linalg.norm(view, axis=1, keepdims=True)
        s, w = np.zeros((12, 12)), np.zeros((12, 12))
        for i in range(12):
            for j in range(12):
                d = 1 - unit[i] @ unit[j]
                near, same = d <= fitted.mode, cluster[i] == cluster[j]
                spread = fitted.sigma_left if near else fitted.sigma_right
                confidence = math.erf(abs(d - fitted.mode) / spread / math.sqrt(2))
                s[i, j] = 1 if near and same else -1 if not near and not same else 0
                w[i, j] = confidence if near == same else 0
        similarities.append(s)
        weights.append(w)
    weight = weights[0] * weights[1] * (1 - np.eye(12))
    expected = 0.0
    for u, s in zip(codes, reversed(similarities), strict=True):
        errors = (u.double().numpy() @ u.double().numpy().T / 8 - s) ** 2
        expected += (weight * errors).sum() / weight.sum() / 2
    terms = method.objective(batch)
    assert terms["semantic"].item() == pytest.approx(expected, rel=1e-3)
    contrast = 0.3 * nt_xent_loss(codes[0], codes[1], 0.5)
    assert terms["contrastive"].item() == pytest.approx(float(contrast), rel=1e-4)


def test_training_lowers_it(
    batch: Any,
    build: Callable[..., Any],
    teach: Callable[..., None],
    losses_of_training: Callable[..., list[float]],
) -> None:
    method = build(CIMON, clusters=3)
    batch["cluster"] = method.fit_teacher(teach(method, batch["global_feature"]))["cluster"]
    losses = losses_of_training(method, batch)
    assert losses[-1] < 0.9 * losses[0]


def test_settings_that_make_no_sense(build: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"model\.clusters"):
        build(CIMON, clusters=1)
    with pytest.raises(InputError, match="frozen backbone"):
        build(CIMON, finetune=True)
