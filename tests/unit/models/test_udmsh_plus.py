"""UDMSH-plus without a trainer: its teacher, its inputs, its objective."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from tests.cached import taught

from udmsh_pl.baselines.itq import ITQ
from udmsh_pl.errors import InputError
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSHPlus
from udmsh_pl.models.udmsh_plus import code_temperature
from udmsh_pl.similarity.manifold import diffused_embedding, neighbour_graph, unit_rows

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
    }
    built = UDMSHPlus(**(tiny | options))
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))
    return built


def state_of(built: UDMSHPlus, stored: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return built.fit_teacher(TrainFeatures(stored))


def inputs_of(built: UDMSHPlus, stored: dict[str, np.ndarray]) -> torch.Tensor:
    """Fused features of the images and their views, [N, 1 + V, dims]."""
    return state_of(built, stored)["inputs"]


def batch_of(
    built: UDMSHPlus, stored: dict[str, np.ndarray], rows: Any = range(ROWS), epoch: int = 0
) -> dict[str, torch.Tensor]:
    return taught(built, TrainFeatures(stored), list(rows), epoch)


@pytest.mark.parametrize("trusted", [True, False])
def test_the_similarity_is_of_three_levels(
    stored: dict[str, np.ndarray], trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "udmsh_pl.models.udmsh_plus.neighbour_trust", lambda *_: 1.0 if trusted else 0.5
    )
    settings = {"neighbours": 5, "rank": 6, "diffusion_time": 4.0, "near_share": 0.6}
    built, plain = model(stored, **settings), model(stored, **settings, view_discount=0.0)
    parts = (torch.from_numpy(stored[name]) for name in ("global_feature", "feature_map"))
    fused = built.encoder.fuse(*parts).half()
    assert inputs_of(built, stored).shape == (ROWS, 1 + VIEWS, 16)
    torch.testing.assert_close(inputs_of(built, stored)[:, 0], fused, atol=2e-3, rtol=2e-3)
    clean = inputs_of(built, stored)[:, 0].float().numpy()
    untold = inputs_of(plain, stored)[:, 0].float().numpy()  # what the views say is not in it
    graph, unit = neighbour_graph(untold if trusted else clean, 5), unit_rows(clean)
    levels = [diffused_embedding(graph, 6, 4.0), diffused_embedding(graph, 256, 2.0), unit]
    shares = [0.4, 0.3, 0.3]
    expected = sum(share * level @ level.T for share, level in zip(shares, levels, strict=True))
    similarity = batch_of(built, stored)["similarity"]
    np.testing.assert_allclose(similarity, expected, atol=1e-3)
    same = similarity[torch.arange(ROWS)[:, None] % 4 == torch.arange(ROWS) % 4]
    assert same.mean() > similarity.mean() + 0.3  # the four groups
    cosines = unit @ unit.T - 9 * np.eye(ROWS)
    assert (
        state_of(built, stored)["nearest"].numpy() == np.argsort(-cosines, axis=1)[:, :3]
    ).mean() > 0.98


@pytest.mark.parametrize("near_share", [0.0, 0.5])
def test_cosine_teacher_is_the_cosine_of_the_fused_features(
    stored: dict[str, np.ndarray], near_share: float
) -> None:
    built = model(stored, teacher="cosine", near_share=near_share)
    unit = unit_rows(inputs_of(built, stored)[:, 0].float().numpy())
    found = batch_of(built, stored)["similarity"]
    np.testing.assert_allclose(found, unit @ unit.T, atol=1e-5)


@pytest.mark.parametrize(
    ("code_share", "least_weight", "near_share"),
    [(0.0, None, 0.0), (0.5, None, 0.0), (0.5, 0.1, 0.25), (0.5, 0.1, 1.0)],
)
def test_objective_equals_the_double_loop(
    stored: dict[str, np.ndarray],
    code_share: float,
    least_weight: float | None,
    near_share: float,
) -> None:
    built = model(
        stored,
        code_share=code_share,
        least_weight=least_weight,
        near_share=near_share,
        companions=0,
        use_views=False,
        dropout=0.0,
    ).eval()
    rows = torch.tensor([3, 17, 30, 5])
    fused = inputs_of(built, stored)[rows, 0].float()
    path = built.encoder.direct.weight.T
    u = torch.tanh(built.encoder.head(fused) + fused @ path).detach().numpy()
    b = np.where(u >= 0, 1, -1)
    unit = unit_rows(fused.numpy())
    manifold = (
        state_of(built, stored)["targets"][rows] @ state_of(built, stored)["targets"][rows].T
    ).numpy()
    wanted = manifold + near_share / 2 * unit @ unit.T
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    weights = [1.0 if least_weight is None else least_weight + abs(wanted[i, j]) for i, j in pairs]
    errors = [
        ((1 - code_share) * u[i] @ u[j] / 8 + code_share * u[i] @ b[j] / 8 - wanted[i, j]) ** 2
        for i, j in pairs
    ]
    assert float(
        built.objective(batch_of(built, stored, rows))["pairwise"].detach()
    ) == pytest.approx(np.average(errors, weights=weights), rel=1e-4)


def test_near_levels_order_images_of_one_group(stored: dict[str, np.ndarray]) -> None:
    """Long diffusion makes all of a group alike; with near levels beside it codes still tell groups
    apart, and know who is nearer in the group.
    """

    def codes(near_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        options = {"neighbours": 5, "rank": 6, "diffusion_time": 50.0, "dropout": 0.0}
        built = model(stored, bits=64, hidden=128, near_share=near_share, **options)
        optimizer = torch.optim.AdamW(built.encoder.parameters(), lr=3e-3)
        features = TrainFeatures(stored)
        for _ in range(100):
            optimizer.zero_grad()
            built.objective(taught(built, features, range(ROWS)))["pairwise"].backward()
            optimizer.step()
        fused = inputs_of(built, stored)[:, 0].float()
        signs = torch.tanh(built.eval().encoder.head_logits(fused)).detach().sign()
        unit = torch.nn.functional.normalize(fused, dim=1)
        return signs @ signs.T / 64, unit @ unit.T

    group = torch.arange(ROWS) % 4
    same = (group[:, None] == group) & ~torch.eye(ROWS, dtype=torch.bool)

    def in_group(code: torch.Tensor, cosine: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([code[same], cosine[same]]))[0, 1])

    plain, (mixed, cosine) = codes(0.0), codes(0.5)
    assert in_group(mixed, cosine) > max(0.2, in_group(*plain) + 0.1)
    assert mixed[same].mean() > mixed[group[:, None] != group].mean() + 0.5


def test_codes_start_as_itq_of_the_fused_features(stored: dict[str, np.ndarray]) -> None:
    built = model(stored).eval()
    fused = inputs_of(built, stored)[:, 0].float()
    leading = fused[:, :8].numpy()
    logits = built.encoder.head_logits(fused).detach().numpy()
    signs = np.where(logits >= 0, 1.0, -1.0)
    # a rotation of the leading axes that is as near to its signs as ITQ of the baselines is
    itq = ITQ(8)
    itq.fit(leading)
    own = itq.project(leading)
    error = np.square(own / own.std() - np.where(own >= 0, 1, -1)).mean()
    path = leading @ built.encoder.direct.weight[:, :8].detach().numpy().T
    assert np.square(path - np.where(path >= 0, 1, -1)).mean() < 1.1 * error
    assert (signs == np.where(path >= 0, 1, -1)).mean() > 0.9  # the head is small
    turn = built.encoder.direct.weight[:, :8].detach().numpy()
    np.testing.assert_allclose(turn @ turn.T / (turn @ turn.T)[0, 0], np.eye(8), atol=1e-4)


def test_a_learned_path_stays_and_none_is_learned_where_it_is_off(
    stored: dict[str, np.ndarray],
) -> None:
    built = model(stored, bits=24)  # more than there are axes
    assert built.encoder.direct.weight.shape == (24, 16)
    learned = built.encoder.direct.weight.detach() + 1
    with torch.no_grad():
        built.encoder.direct.weight.copy_(learned)
    built.load_teacher(built.fit_teacher(TrainFeatures(stored)))  # a run that goes on
    assert torch.equal(built.encoder.direct.weight, learned)
    off = model(stored, linear_path=False)
    off.objective(batch_of(off, stored))["pairwise"].backward()
    assert not off.encoder.direct.weight.any()
    assert off.encoder.direct.weight.grad is None


def test_codes_are_ranked_by_the_number_of_groups_that_the_teacher_sees(
    stored: dict[str, np.ndarray],
) -> None:
    noise = np.random.default_rng(1).random((ROWS, DIM)).astype(np.float16)
    alone = {"global_feature": noise, "feature_map": stored["feature_map"]}
    many = model(alone, teacher="cosine", dims=24, branches="global")
    levels = state_of(many, alone)["targets"].double()
    groups = float(1 / (levels @ levels.T).square().mean())  # of all pairs, one by one
    assert 14 < groups < 37
    assert many.temperature == pytest.approx(0.2 - 0.05 * (groups - 12) / 25)
    long = model(alone, teacher="cosine", dims=24, branches="global", bits=128)
    assert long.temperature == pytest.approx(0.2 - 0.08 * (groups - 12) / 25)
    assert model(stored).temperature == 0.2  # three groups
    asked = model(alone, teacher="cosine", dims=24, branches="global", code_temperature=0.3)
    assert asked.temperature == 0.3


@given(st.floats(1, 1e4), st.integers(1, 1024))
def test_more_groups_and_bits_make_the_order_of_the_nearest_count_more(
    groups: float, bits: int
) -> None:
    found = code_temperature(groups, bits)
    least = 0.15 if bits <= 64 else 0.12
    assert least - 1e-9 <= code_temperature(groups + 1, bits) <= found <= 0.2
    assert code_temperature(groups, bits + 1) <= found


def test_a_checkpoint_from_before_the_linear_path_has_none(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, linear_path=False)
    older = {n: v for n, v in built.state_dict().items() if n != "encoder.direct.weight"}
    other = UDMSHPlus(bits=8, backbone="resnet10t", weights="random", hidden=32, dims=16)
    other.load_state_dict(older)
    fused = inputs_of(built, stored)[:, 0].float()
    expected = built.eval().encoder.head_logits(fused)
    torch.testing.assert_close(other.eval().encoder.head_logits(fused), expected, rtol=0, atol=0)


def test_the_student_sees_a_random_point_between_an_image_and_a_view(
    stored: dict[str, np.ndarray],
) -> None:
    built = model(stored, dropout=0.0, companions=0, contrastive_weight=0.0).train()
    rows = torch.tensor([3, 17, 30, 5, 9, 11])
    batch = batch_of(built, stored, rows)
    seen: list[torch.Tensor] = []
    built.encoder.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.objective(batch)
    assert torch.equal(seen[0], seen[1])  # a resumed run repeats its steps
    moved = (batch["shown"] != batch["clean"]).any(1)  # others show the image itself
    assert 2 <= moved.sum() < 6 or moved.all()
    clean, away = batch["clean"][moved], (batch["shown"] - batch["clean"])[moved]
    shares = [((at[moved] - clean) * away).sum(1) / away.square().sum(1) for at in seen]
    for at, share in zip(seen, shares, strict=True):
        torch.testing.assert_close(at[moved], clean + share[:, None] * away)
        assert ((share > 0) & (share < 1)).all()
        assert len(share.unique()) == len(share)
    assert (shares[0] - shares[2]).abs().min() > 1e-3
    torch.testing.assert_close(seen[0][~moved], batch["clean"][~moved])
    built.eval().objective(batch)
    assert torch.equal(seen[-1], batch["shown"])


def test_the_logits_of_an_image_shall_be_equally_large(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, dropout=0.0, companions=0, use_views=False).eval()
    rows = torch.tensor([3, 17, 30, 5, 9])
    terms = built.objective(batch_of(built, stored, rows))
    logits = built.encoder.head_logits(inputs_of(built, stored)[rows, 0].float())
    z = logits.detach().numpy().astype(float)
    errors = [1 - np.abs(row).sum() / np.sqrt(8 * (row @ row)) for row in z]
    assert float(terms["quantisation"].detach()) == pytest.approx(0.5 * np.mean(errors), rel=1e-4)
    without = model(stored, quantisation_weight=0.0)
    assert "quantisation" not in without.objective(batch_of(without, stored, rows))


@pytest.mark.parametrize(("use_views", "expected"), [(True, 1 + VIEWS), (False, 1)])
def test_views_are_inputs_unless_switched_off(
    stored: dict[str, np.ndarray], use_views: bool, expected: int
) -> None:
    built = model(stored, use_views=use_views, dropout=0.0, companions=0).eval()
    rows = torch.tensor([3, 17])

    def step(epoch: int) -> float:
        batch = batch_of(built, stored, rows, epoch)
        return float(built.objective(batch)["pairwise"].detach())

    seen = [step(epoch) for epoch in [*range(30), 0]]
    assert (len(set(seen)) > 1) is (expected > 1)
    assert seen[-1] == seen[0]


def test_two_views_of_an_image_are_told_from_other_images(stored: dict[str, np.ndarray]) -> None:
    built = model(stored, dropout=0.0, companions=0).eval()
    rows = torch.tensor([3, 17, 30, 5, 9])
    seen: list[torch.Tensor] = []
    built.encoder.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = batch_of(built, stored, rows)
    terms = built.objective(batch)
    views = seen[0][len(rows) :].reshape(2, 3, 16)  # of the first half of the images
    inputs = inputs_of(built, stored)[rows[:3]].float()  # [3, 1 + VIEWS, 16]
    at = (views[:, :, None] == inputs).all(3)  # which of its pictures each is
    assert (at.sum(2) == 1).all()
    assert not (at[0] & at[1]).any()
    u = torch.tanh(built.encoder.head_logits(views.flatten(0, 1))).detach().numpy().astype(float)
    cosines = unit_rows(u) @ unit_rows(u).T / 0.3
    similarity = batch["similarity"][:3, :3].numpy().astype(float)
    losses = []
    for i in range(6):
        own = (i + 3) % 6
        sum_of_others = sum(
            min(max(1 - 2 * similarity[i % 3, j % 3], 0), 1) * np.exp(cosines[i, j])
            for j in range(6)
            if j % 3 != i % 3
        )
        losses.append(np.log(np.exp(cosines[i, own]) + sum_of_others) - cosines[i, own])
    assert float(terms["contrastive"].detach()) == pytest.approx(0.06 * np.mean(losses), rel=1e-4)
    for without in ({"contrastive_weight": 0.0}, {"use_views": False}):
        other = model(stored, **without)
        assert "contrastive" not in other.objective(batch_of(other, stored, rows))


def test_codes_are_ranked_by_the_cosine_and_an_image_is_not_ranked_against_itself(
    stored: dict[str, np.ndarray],
) -> None:
    options = {"dropout": 0.0, "companions": 0, "use_views": False}
    built = model(stored, **options, code_temperature=0.3).eval()
    rows = torch.tensor([3, 17, 30, 3, 9])  # one of them twice, as companions can be
    found = float(built.objective(batch_of(built, stored, rows))["ranking"].detach())
    fused = inputs_of(built, stored)[rows, 0].float()
    u = torch.tanh(built.encoder.head_logits(fused)).detach().numpy().astype(float)
    said, wanted = (unit_rows(v) @ unit_rows(v).T for v in (u, fused.numpy()))
    divergences = []
    for i in range(5):
        others = [j for j in range(5) if rows[j] != rows[i]]
        p, q = np.exp(wanted[i, others] / 0.05), np.exp(said[i, others] / 0.3)
        divergences.append(entropy(p, q))
    assert found == pytest.approx(0.1 * np.mean(divergences), rel=1e-4)
    without = model(stored, ranking_weight=0.0)
    assert "ranking" not in without.objective(batch_of(without, stored, rows))


def test_without_the_map_and_without_views(stored: dict[str, np.ndarray]) -> None:
    alone = {name: stored[name] for name in ("global_feature", "feature_map")}
    built = model(alone, branches="global")
    assert inputs_of(built, alone).shape == (ROWS, 1, 16)
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
        loss = built.objective(batch_of(built, stored))["pairwise"]
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("near_share", 1.5),
        ("companions", 4),
        ("view_discount", -1.0),
        ("ranking_weight", -0.1),
        ("quantisation_weight", -0.1),
        ("code_temperature", 0.0),
        ("contrastive_weight", -0.1),
        ("contrastive_weight", None),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name: str, value: float | None) -> None:
    with pytest.raises(InputError, match=rf"--model\.{name}"):
        UDMSHPlus(bits=8, backbone="resnet10t", weights="random", **{name: value})


@pytest.mark.parametrize("name", ["diffusion_time", "least_weight"])
def test_negative_settings_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"--model.{name}"):
        UDMSHPlus(bits=8, backbone="resnet10t", weights="random", **{name: -1.0})


@pytest.mark.parametrize("count", [2, 3])
def test_very_few_images_have_near_images_too(stored: dict[str, np.ndarray], count: int) -> None:
    few = TrainFeatures({name: values[:count] for name, values in stored.items()})
    built = UDMSHPlus(bits=8, backbone="resnet10t", weights="random", hidden=32, dims=16)
    found = built.near_images(few)
    assert found is not None
    nearest, shown = found
    assert nearest.shape == (count, 3)
    assert ((nearest >= 0) & (nearest < count)).all()
    assert shown == 3
