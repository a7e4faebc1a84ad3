"""UDMSH without a trainer: its structure and its objective."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from tests.cached import taught

from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSH, DualBranchEncoder
from udmsh_pl.similarity.losses import isometric_loss

ROWS, DIM = 48, 512
TINY: dict[str, Any] = {"bits": 8, "backbone": "resnet10t", "weights": "random", "hidden": 16}
V0_2 = Path(__file__).parents[2] / "fixtures" / "v0_2"


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    groups = generator.random((4, DIM)) ** 4
    clean = groups[np.arange(ROWS) % 4] + 0.2 * generator.random((ROWS, DIM))
    maps = clean[:, :, None, None] * generator.random((ROWS, DIM, 2, 2))
    arrays = {"global_feature": clean, "feature_map": maps}
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def model(stored: dict[str, np.ndarray], **options: Any) -> UDMSH:
    torch.manual_seed(0)
    built = UDMSH(**(TINY | {"levels": "linear", "least_weight": 0.1} | options))
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))
    return built


def batch_of(
    built: UDMSH, stored: dict[str, np.ndarray], rows: list[int]
) -> dict[str, torch.Tensor]:
    return taught(built, TrainFeatures(stored), rows)


@pytest.mark.parametrize("centre", [True, False])
def test_the_structure_averages_the_cosine_distances_of_both_features(
    stored: dict[str, np.ndarray], centre: bool
) -> None:
    built = model(stored, centre=centre)
    rows = [3, 17, 30, 5, 7]
    expected = np.zeros((5, 5))
    for name in ("global_feature", "feature_map"):
        values = stored[name].reshape(ROWS, -1).astype(np.float64)
        values -= values.mean(0) if centre else 0
        unit = (values / np.linalg.norm(values, axis=1, keepdims=True))[rows]
        expected += unit @ unit.T / 2
    found = batch_of(built, stored, rows)["cosine"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_objective_equals_the_double_loop(stored: dict[str, np.ndarray]) -> None:
    built = model(stored)
    batch = batch_of(built, stored, [3, 17, 30, 5])
    u = built(batch).detach()
    top = bottom = 0.0
    for i, j in ((i, j) for i in range(4) for j in range(4) if i != j):
        wanted = float(batch["cosine"][i, j])
        weight = 0.1 + abs(wanted)
        top, bottom = top + weight * (float(u[i] @ u[j]) / 8 - wanted) ** 2, bottom + weight
    terms = {name: float(term.detach()) for name, term in built.objective(batch).items()}
    assert terms["pairwise"] == pytest.approx(top / bottom, rel=1e-4)
    assert terms["isometry"] == pytest.approx(0.1 * float(isometric_loss(u)), rel=1e-4)


def test_codes_are_ranked_by_the_cosine_of_the_features(stored: dict[str, np.ndarray]) -> None:
    built = model(stored)
    batch = batch_of(built, stored, [3, 17, 30, 5, 8])
    wanted = batch["cosine"].numpy()
    u = built(batch).detach().numpy().astype(float)
    said = u @ u.T / np.linalg.norm(u, axis=1) / np.linalg.norm(u, axis=1)[:, None]
    divergences = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        p, q = np.exp(wanted[i, others] / 0.05), np.exp(said[i, others] * np.sqrt(8) / 1.1)
        divergences.append(entropy(p, q))
    found = float(built.objective(batch)["ranking"].detach())
    assert found == pytest.approx(0.1 * np.mean(divergences), rel=0.02)
    assert "ranking" not in model(stored, ranking_weight=0.0).objective(batch)


def test_training_learns_the_groups(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, bits=32)
    optimizer = torch.optim.AdamW(built.encoder.parameters(), lr=3e-3)
    batch = batch_of(built, stored, list(range(ROWS)))
    for _ in range(60):
        optimizer.zero_grad()
        sum(built.objective(batch).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    code = built(batch).detach().sign()
    alike, group = code @ code.T / 32, torch.arange(ROWS) % 4
    assert alike[group[:, None] == group].mean() > alike[group[:, None] != group].mean() + 0.5


@pytest.mark.parametrize(
    ("branches", "teacher", "read"),
    [
        ("dual", "global", {"global_feature", "feature_map"}),
        ("global", "both", {"global_feature", "feature_map"}),
        ("global", "global", {"global_feature"}),
        ("global", "spatial", {"global_feature", "feature_map"}),
        ("spatial", "spatial", {"feature_map"}),
    ],
)
def test_a_batch_holds_what_branches_and_structure_read(
    stored: dict[str, np.ndarray], branches: Any, teacher: Any, read: set[str]
) -> None:
    built = UDMSH(branches=branches, teacher=teacher, **TINY)
    assert set(built.train_rows(TrainFeatures(stored))) == read


def test_nothing_of_udmsh_is_ours(stored: dict[str, np.ndarray]) -> None:
    built = model(stored)
    assert type(built.encoder) is DualBranchEncoder
    assert built.near_images(TrainFeatures(stored)) is None
    ours = {"linear_path", "companions", "use_views", "root", "balance_weight", "structure"}
    assert not ours & set(built.hparams)


def test_a_checkpoint_with_a_linear_path_is_refused_in_one_line() -> None:
    checkpoint = torch.load(V0_2 / "udmsh.ckpt", weights_only=True)
    state, options = checkpoint["state_dict"], checkpoint["hyper_parameters"]
    kept = {k: v for k, v in options.items() if k not in UDMSH.former_options and k[0] != "_"}
    model = UDMSH(**(kept | {"weights": "random"}))
    model.load_state_dict(state)  # without one it opens
    state["encoder.direct.weight"] = torch.ones(12, 512)
    with pytest.raises(InputError, match=r"linear path.*train it anew") as raised:
        model.load_state_dict(state)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["least_weight", "ranking_weight"])
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"--model\.{name}"):
        UDMSH(**TINY, **{name: -1.0})
