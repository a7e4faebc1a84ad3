"""UDMSH without a trainer: whose distances its structure is, and what its objective is."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from udmsh_pl.baselines import ITQ
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSH, DualBranchEncoder, UDMSHPlus
from udmsh_pl.models.structure_teacher import ROW
from udmsh_pl.similarity.losses import isometric_loss

ROWS, DIM = 48, 512


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
    tiny = {"bits": 8, "backbone": "resnet10t", "weights": "random", "hidden": 16}
    manifold = {"structure": "manifold", "levels": "linear", "least_weight": 0.1}
    built = UDMSH(**(tiny | manifold | options))
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))
    return built


def batch_of(stored: dict[str, np.ndarray], rows: list[int]) -> dict[str, torch.Tensor]:
    arrays = {name: torch.from_numpy(array[rows]).float() for name, array in stored.items()}
    return arrays | {"index": torch.tensor(rows)}


def test_the_manifold_has_the_levels_of_udmsh_plus(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, near_share=0.4)
    tiny = {"bits": 8, "backbone": "resnet10t", "weights": "random"}
    plus = UDMSHPlus(near_share=0.4, **tiny)
    plus.load_teacher(plus.fit_teacher(TrainFeatures(stored)))
    rows = [3, 17, 30, 5, 7]
    found = built.structure.distances(built.teacher_features(batch_of(stored, rows)))
    expected = 1 - plus.similarity(torch.tensor(rows))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("structure", ["manifold", "cosine"])
def test_objective_equals_the_double_loop(stored: dict[str, np.ndarray], structure: str) -> None:
    built = model(stored, structure=structure)
    batch = batch_of(stored, [3, 17, 30, 5])
    u = built.relaxed(batch).detach()
    torch.testing.assert_close(u, built(batch).detach(), rtol=0, atol=2e-3)  # fused in float16
    distances = built.structure.distances(built.teacher_features(batch))
    top = bottom = 0.0
    for i, j in ((i, j) for i in range(4) for j in range(4) if i != j):
        wanted = 1 - float(distances[i, j])
        weight = 0.1 + abs(wanted)
        top, bottom = top + weight * (float(u[i] @ u[j]) / 8 - wanted) ** 2, bottom + weight
    terms = {name: float(term.detach()) for name, term in built.objective(batch).items()}
    assert terms["pairwise"] == pytest.approx(top / bottom, rel=1e-4)
    assert terms["isometry"] == pytest.approx(0.1 * float(isometric_loss(u)), rel=1e-4)


@pytest.mark.parametrize("structure", ["manifold", "cosine"])
@pytest.mark.parametrize("near_share", [0.0, 0.6])
def test_codes_are_ranked_by_the_cosine_of_the_features(
    stored: dict[str, np.ndarray], structure: str, near_share: float
) -> None:
    built = model(stored, structure=structure, near_share=near_share)
    batch = batch_of(stored, [3, 17, 30, 5, 8])
    if structure == "manifold":
        fused = UDMSHPlus(bits=8, backbone="resnet10t", weights="random", dims=512)
        fused.load_teacher(fused.fit_teacher(TrainFeatures(stored)))
        wanted = fused.nearness(batch["index"]).numpy()
    else:
        wanted = 1 - built.structure.distances(built.teacher_features(batch)).numpy()
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
    batch = batch_of(stored, list(range(ROWS)))
    for _ in range(60):
        optimizer.zero_grad()
        sum(built.objective(batch).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    code = built(batch).detach().sign()
    alike, group = code @ code.T / 32, torch.arange(ROWS) % 4
    assert alike[group[:, None] == group].mean() > alike[group[:, None] != group].mean() + 0.5


def test_the_manifold_needs_no_map_for_the_global_branch(stored: dict[str, np.ndarray]) -> None:
    assert model(stored, branches="global").train_arrays == ("global_feature",)
    assert "feature_map" in model(stored, branches="global", structure="cosine").train_arrays


@pytest.mark.parametrize(
    ("branches", "teacher", "read"),
    [
        ("dual", "both", ["global_feature", "feature_map"]),
        ("dual", "global", ["global_feature", "feature_map"]),
        ("global", "global", ["global_feature"]),
        ("global", "both", ["global_feature"]),
        ("spatial", "both", ["feature_map"]),
    ],
)
def test_codes_start_as_itq_of_what_the_branches_read(
    stored: dict[str, np.ndarray], branches: Any, teacher: Any, read: list[str]
) -> None:
    built = model(stored, branches=branches, teacher=teacher).eval()
    parts = [stored[name].reshape(ROWS, -1).astype(np.float32) for name in read]
    rooted = [np.sign(part) * np.sqrt(np.abs(part)) for part in parts]
    centred = [part - part.mean(0) for part in rooted]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in centred]
    joined = np.concatenate(unit, axis=1) / len(unit) ** 0.5
    joined -= joined.mean(0)
    axes = np.linalg.svd(joined, full_matrices=False)[2][:8]
    leading = joined @ axes.T
    path = built._inputs.float() @ built.encoder.direct.weight.detach().T
    # the path is a rotation of these axes, in one scale
    turn = np.linalg.lstsq(leading, path.numpy(), rcond=None)[0]
    np.testing.assert_allclose(leading @ turn, path, atol=0.02 * float(path.std()))
    scale = np.square(turn).sum(0).mean()
    np.testing.assert_allclose(turn.T @ turn / scale, np.eye(8), atol=0.02)
    # and as near to its signs as ITQ of the baselines is
    itq = ITQ(8)
    itq.fit(leading)
    own = itq.project(leading)
    wanted, found = (np.square(v / v.std() - np.sign(v)).mean() for v in (own, path.numpy()))
    assert found < 1.25 * wanted  # from another start; a rotation by chance has twice that and more
    said = built(batch_of(stored, list(range(ROWS)))).detach().numpy()
    assert (np.sign(said) == np.sign(path.numpy())).mean() > 0.9  # the branches start small


def test_a_learned_path_stays_and_one_that_never_was_does_not_come(
    stored: dict[str, np.ndarray],
) -> None:
    built = model(stored)
    learned = built.encoder.direct.weight.detach() + 1
    with torch.no_grad():
        built.encoder.direct.weight.copy_(learned)
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))  # a run that goes on
    assert torch.equal(built.encoder.direct.weight, learned)
    older, other = model(stored, linear_path=False), model(stored)
    other.load_state_dict(older.state_dict())  # a checkpoint from before there was one
    other.load_teacher(other.fit_teacher(TrainFeatures(stored)))
    batch = batch_of(stored, list(range(ROWS)))
    torch.testing.assert_close(other.eval()(batch), older.eval()(batch), rtol=0, atol=0)
    assert not other.encoder.direct.weight.requires_grad
    assert type(model(stored, structure="cosine").encoder) is DualBranchEncoder


def test_a_checkpoint_holds_no_row_of_a_train_image(stored: dict[str, np.ndarray]) -> None:
    shapes = [tuple(value.shape) for value in model(stored).state_dict().values()]
    assert (ROWS, ROW) not in shapes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"teacher": "spatial"}, r"--model\.structure cosine"),
        ({"root": False}, r"--model\.root"),
        ({"least_weight": -1.0}, r"--model\.least_weight"),
        ({"ranking_weight": -1.0}, r"--model\.ranking_weight"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        UDMSH(structure="manifold", bits=8, backbone="resnet10t", weights="random", **options)
