"""Losses against naive loops, closed forms and gradients."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.stats import entropy

from udmsh_pl.similarity.losses import (
    asymmetric_pairwise_loss,
    best_rotation,
    isometric_loss,
    multilevel_pairwise_loss,
    nt_xent_loss,
    quantisation_loss,
    ranking_loss,
)


@pytest.fixture
def u() -> torch.Tensor:
    return torch.tanh(
        torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )


def test_pairwise_loss_equals_the_double_loop(u: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    similarity = torch.rand(9, 9, generator=generator, dtype=torch.float64) * 2 - 1
    weight = torch.rand(9, 9, generator=generator, dtype=torch.float64)
    total = mass = 0.0
    for i in range(9):
        for j in range(9):
            if i != j:
                total += float(weight[i, j] * (u[i] @ u[j] / 6 - similarity[i, j]) ** 2)
                mass += float(weight[i, j])
    assert float(multilevel_pairwise_loss(u, similarity, weight)) == pytest.approx(total / mass)
    ones = torch.ones(9, 9, dtype=torch.float64)
    assert float(multilevel_pairwise_loss(u, similarity)) == pytest.approx(
        float(multilevel_pairwise_loss(u, similarity, ones))
    )


def test_pairwise_loss_vanishes_without_weight_and_at_a_perfect_fit(u: torch.Tensor) -> None:
    assert float(multilevel_pairwise_loss(u, u @ u.T / 6)) == pytest.approx(0)
    assert float(multilevel_pairwise_loss(u, torch.zeros(9, 9), torch.zeros(9, 9))) == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_asymmetric_loss_equals_the_double_loop_and_learns_from_relaxed_codes_alone(
    u: torch.Tensor, share: float
) -> None:
    similarity = torch.rand(9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    b = np.where(u.numpy() >= 0, 1.0, -1.0)
    values = []
    for i in range(9):
        for j in range(9):
            if i != j:
                inner = (1 - share) * float(u[i] @ u[j]) + share * float(u[i].numpy() @ b[j])
                values.append((inner / 6 - float(similarity[i, j])) ** 2)
    assert float(asymmetric_pairwise_loss(u, similarity, share)) == pytest.approx(np.mean(values))
    assert torch.autograd.gradcheck(
        lambda v: asymmetric_pairwise_loss(v, similarity, share), u.clone().requires_grad_()
    )


def test_pairwise_isometry_equals_the_double_loop(u: torch.Tensor) -> None:
    b = np.where(u.numpy() >= 0, 1.0, -1.0)
    values = [
        (float(u[i] @ u[j]) - b[i] @ b[j]) ** 2 / 36 for i in range(9) for j in range(9) if i != j
    ]
    assert float(isometric_loss(u)) == pytest.approx(np.mean(values))


def test_pointwise_isometry(u: torch.Tensor) -> None:
    assert float(isometric_loss(u, "pointwise")) == pytest.approx(
        float(((u.abs() - 1) ** 2).mean())
    )


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "rotation"])
def test_isometry_is_zero_on_codes_and_sign_has_no_gradient(kind: str, u: torch.Tensor) -> None:
    codes = torch.where(u >= 0, 1.0, -1.0).double()
    assert float(isometric_loss(codes, kind)) == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]
    u.requires_grad_()
    isometric_loss(u, kind).backward()  # type: ignore[arg-type]
    assert u.grad is not None
    assert torch.isfinite(u.grad).all()
    assert u.grad.abs().max() > 0


def test_zero_counts_as_plus_one() -> None:
    assert float(isometric_loss(torch.zeros(2, 3), "pointwise")) == 1.0


def test_rotation_is_orthogonal_and_each_step_is_procrustes(u: torch.Tensor) -> None:
    rotation = best_rotation(u, iterations=1)
    codes = np.where(u.numpy() >= 0, 1.0, -1.0)
    expected, _ = orthogonal_procrustes(u.numpy(), codes)
    np.testing.assert_allclose(rotation.numpy(), expected, atol=1e-9)
    more = best_rotation(u, iterations=30)
    torch.testing.assert_close(more @ more.T, torch.eye(6, dtype=torch.float64))
    before = float(isometric_loss(u, "rotation", torch.eye(6, dtype=torch.float64)))
    assert float(isometric_loss(u, "rotation", more)) <= before


def test_nt_xent_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    both = torch.cat([first, second]).numpy()
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    losses = []
    for i in range(10):
        scores = np.exp(both @ both[i] / 0.3)
        losses.append(-np.log(scores[(i + 5) % 10] / (scores.sum() - scores[i])))
    assert float(nt_xent_loss(first, second, 0.3)) == pytest.approx(np.mean(losses))


def test_quantisation_equals_the_definition_and_ignores_the_size_of_a_row(u: torch.Tensor) -> None:
    rows = u.numpy()
    cosines = [
        row @ np.where(row >= 0, 1, -1) / np.linalg.norm(row) / len(row) ** 0.5 for row in rows
    ]
    assert float(quantisation_loss(u)) == pytest.approx(1 - np.mean(cosines))
    sizes = torch.logspace(-3, 3, 9, dtype=torch.float64)[:, None]
    assert float(quantisation_loss(u * sizes)) == pytest.approx(float(quantisation_loss(u)))
    assert float(quantisation_loss(torch.where(u >= 0, 2.0, -2.0))) == pytest.approx(0, abs=1e-6)


def test_quantisation_moves_the_smallest_entry_away_from_zero() -> None:
    logits = torch.tensor([[3.0, -0.1, -2.0]], requires_grad=True)
    quantisation_loss(logits).backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().argmax() == 1
    assert logits.grad[0, 1] > 0  # descent makes it more negative


def test_ranking_equals_the_divergence_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(5)
    u, features = (torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    wanted = np.corrcoef(features.numpy())
    left_out = np.zeros((6, 6), dtype=bool)
    left_out[0, 3] = left_out[2, 1] = True
    found = ranking_loss(u, torch.from_numpy(wanted), 0.2, left_out=torch.from_numpy(left_out))
    unit = u.numpy() / np.linalg.norm(u.numpy(), axis=1, keepdims=True)
    divergences = []
    for i in range(6):
        others = [j for j in range(6) if j != i and not left_out[i, j]]
        said = unit[others] @ unit[i] / 0.2
        divergences.append(entropy(np.exp(wanted[i, others] / 0.2), np.exp(said)))
    assert float(found) == pytest.approx(np.mean(divergences))


@pytest.mark.parametrize("count", [1, 2])
def test_ranking_of_images_without_others_is_nothing(count: int) -> None:
    u = torch.full((count, 4), 0.5, requires_grad=True)
    everybody = torch.ones(count, count, dtype=torch.bool)
    loss = ranking_loss(u, torch.ones(count, count), left_out=everybody)
    loss.backward()
    assert float(loss.detach()) == 0
    assert u.grad is not None
    assert not u.grad.any()


def test_ranking_brings_codes_into_the_order_of_the_teacher() -> None:
    generator = torch.Generator().manual_seed(6)
    similarity = torch.corrcoef(torch.randn(8, 4, generator=generator))
    u = torch.randn(8, 64, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([u], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        ranking_loss(u, similarity).backward()
        optimizer.step()
    cosines = torch.corrcoef(u.detach()).fill_diagonal_(-2)
    nearest = similarity.clone().fill_diagonal_(-2).argmax(1)
    assert (cosines.argmax(1) == nearest).all()
