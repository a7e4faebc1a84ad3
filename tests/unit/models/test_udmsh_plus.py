"""UDMSH-plus without a trainer: its teacher, its inputs, its objective."""

from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.manifold import diffused_embedding, neighbour_graph, unit_rows
from udmsh_pl.models import UDMSHPlus

ROWS, DIM, VIEWS = 48, 512, 3


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    groups = generator.random((4, DIM)) ** 4
    clean = groups[np.arange(ROWS) % 4] + 0.2 * generator.random((ROWS, DIM))
    maps = clean[:, :, None, None] * generator.random((ROWS, DIM, 2, 2))
    views = clean[:, None] + 0.1 * generator.random((ROWS, VIEWS, DIM))
    arrays = {
        "global_feature": clean,
        "feature_map": maps,
        "views": views,
        "view_maps": np.stack([maps] * VIEWS, axis=1),
    }
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def model(stored: dict[str, np.ndarray], **options: Any) -> UDMSHPlus:
    torch.manual_seed(0)
    tiny = {
        "bits": 8,
        "backbone": "resnet10t",
        "weights": "random",
        "hidden": 32,
        "dims": 16,
        "gather_batch": False,
    }
    built = UDMSHPlus(**(tiny | options))
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))
    return built


def test_teacher_is_the_diffusion_of_the_fused_features(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, neighbours=5, rank=6, diffusion_time=4.0)
    parts = (torch.from_numpy(stored[name]) for name in ("global_feature", "feature_map"))
    fused = built.encoder.fuse(*parts).half()
    assert built._inputs.shape == (ROWS, 1 + VIEWS, 16)
    torch.testing.assert_close(built._inputs[:, 0], fused, atol=2e-3, rtol=2e-3)
    expected = diffused_embedding(neighbour_graph(built._inputs[:, 0].float().numpy(), 5), 6, 4.0)
    similarity = built._targets @ built._targets.T
    torch.testing.assert_close(
        similarity, torch.from_numpy(expected @ expected.T), atol=1e-3, rtol=0
    )
    same = similarity[torch.arange(ROWS)[:, None] % 4 == torch.arange(ROWS) % 4]
    assert same.mean() > similarity.mean() + 0.3  # the four groups


def test_cosine_teacher_is_the_cosine_of_the_fused_features(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, teacher="cosine")
    unit = unit_rows(built._inputs[:, 0].float().numpy())
    np.testing.assert_allclose(built._targets @ built._targets.T, unit @ unit.T, atol=1e-5)


@pytest.mark.parametrize(
    ("code_share", "least_weight", "cosine_share"),
    [(0.0, None, 0.0), (0.5, None, 0.0), (0.5, 0.1, 0.25), (0.5, 0.1, 1.0)],
)
def test_objective_equals_the_double_loop(
    stored: dict[str, np.ndarray],
    code_share: float,
    least_weight: float | None,
    cosine_share: float,
) -> None:
    built = model(
        stored,
        code_share=code_share,
        least_weight=least_weight,
        cosine_share=cosine_share,
        use_views=False,
        dropout=0.0,
    ).eval()
    rows = torch.tensor([3, 17, 30, 5])
    u = torch.tanh(built.encoder.head(built._inputs[rows, 0].float())).detach().numpy()
    b = np.where(u >= 0, 1, -1)
    unit = unit_rows(built._inputs[rows, 0].float().numpy())
    manifold = (built._targets[rows] @ built._targets[rows].T).numpy()
    wanted = (1 - cosine_share) * manifold + cosine_share * unit @ unit.T
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    weights = [1.0 if least_weight is None else least_weight + abs(wanted[i, j]) for i, j in pairs]
    errors = [
        ((1 - code_share) * u[i] @ u[j] / 8 + code_share * u[i] @ b[j] / 8 - wanted[i, j]) ** 2
        for i, j in pairs
    ]
    assert float(built.objective({"index": rows})["pairwise"].detach()) == pytest.approx(
        np.average(errors, weights=weights), rel=1e-4
    )


def test_the_cosine_orders_images_of_one_group(stored: dict[str, np.ndarray]) -> None:
    """Long diffusion makes all of a group alike; with the cosine beside it codes still tell groups
    apart, and know who is nearer in the group.
    """

    def codes(cosine_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        options = {"neighbours": 5, "rank": 6, "diffusion_time": 50.0, "dropout": 0.0}
        built = model(stored, bits=64, hidden=128, cosine_share=cosine_share, **options)
        optimizer = torch.optim.AdamW(built.encoder.parameters(), lr=3e-3)
        for _ in range(100):
            optimizer.zero_grad()
            built.objective({"index": torch.arange(ROWS)})["pairwise"].backward()
            optimizer.step()
        fused = built._inputs[:, 0].float()
        signs = torch.tanh(built.eval().encoder.head(fused)).detach().sign()
        unit = torch.nn.functional.normalize(fused, dim=1)
        return signs @ signs.T / 64, unit @ unit.T

    group = torch.arange(ROWS) % 4
    same = (group[:, None] == group) & ~torch.eye(ROWS, dtype=torch.bool)

    def in_group(code: torch.Tensor, cosine: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([code[same], cosine[same]]))[0, 1])

    plain, (mixed, cosine) = codes(0.0), codes(0.5)
    assert in_group(mixed, cosine) > max(0.2, in_group(*plain) + 0.1)
    assert mixed[same].mean() > mixed[group[:, None] != group].mean() + 0.5


@pytest.mark.parametrize(("use_views", "expected"), [(True, 1 + VIEWS), (False, 1)])
def test_views_are_inputs_unless_switched_off(
    stored: dict[str, np.ndarray], use_views: bool, expected: int
) -> None:
    built = model(stored, use_views=use_views, dropout=0.0).eval()
    rows = torch.tensor([3, 17])

    def step(seed: int) -> float:
        torch.manual_seed(seed)  # views are drawn from the state that a checkpoint keeps
        return float(built.objective({"index": rows})["pairwise"].detach())

    seen = [step(seed) for seed in [*range(30), 0]]
    assert (len(set(seen)) > 1) is (expected > 1)
    assert seen[-1] == seen[0]


def test_without_the_map_and_without_views(stored: dict[str, np.ndarray]) -> None:
    alone = {name: stored[name] for name in ("global_feature", "feature_map")}
    built = model(alone, branches="global")
    assert built._inputs.shape == (ROWS, 1, 16)
    batch = {"global_feature": torch.from_numpy(stored["global_feature"][:5]).float()}
    assert built.eval()(batch).shape == (5, 8)
    with pytest.raises(InputError, match="branches global"):
        model(stored).logits(batch)


def test_training_lowers_the_objective_and_a_checkpoint_encodes_alike(
    stored: dict[str, np.ndarray],
) -> None:
    built = model(stored)
    optimizer = torch.optim.AdamW(built.encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = built.objective({"index": torch.arange(ROWS)})["pairwise"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    other = UDMSHPlus(bits=8, backbone="resnet10t", weights="random", hidden=32, dims=16)
    other.load_state_dict(built.state_dict())
    batch = {
        name: torch.from_numpy(stored[name]).float() for name in ("global_feature", "feature_map")
    }
    torch.testing.assert_close(other.eval()(batch), built.eval()(batch), rtol=0, atol=0)


def test_dead_channels_of_a_trained_backbone_have_finite_gradients(
    stored: dict[str, np.ndarray],
) -> None:
    built = model(stored)
    feature = torch.from_numpy(stored["global_feature"]).float().requires_grad_()
    with torch.no_grad():
        feature[:, :5] = 0
    built.encoder.logits(feature, torch.from_numpy(stored["feature_map"])).square().sum().backward()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()
    assert feature.grad.abs().max() > 0


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_share_is_from_0_to_1(value: float) -> None:
    with pytest.raises(InputError, match=r"--model\.cosine_share"):
        UDMSHPlus(bits=8, backbone="resnet10t", weights="random", cosine_share=value)


@pytest.mark.parametrize("name", ["diffusion_time", "least_weight"])
def test_negative_settings_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"--model.{name}"):
        UDMSHPlus(bits=8, backbone="resnet10t", weights="random", **{name: -1.0})
