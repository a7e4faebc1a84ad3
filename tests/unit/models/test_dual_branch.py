"""The dual-branch encoder: shapes, ranges, the fused layer, bad code lengths."""

import pytest
import torch

from udmsh_pl.errors import InputError
from udmsh_pl.models.heads import DualBranchEncoder, SpatialPool


@pytest.mark.parametrize("bits", [1, 12, 64, 1024])
@pytest.mark.parametrize("branches", ["dual", "global", "spatial"])
def test_any_code_length_in_the_open_interval(bits: int, branches: str) -> None:
    encoder = DualBranchEncoder(10, 6, bits, hidden=8, spatial_hidden=4, branches=branches)  # type: ignore[arg-type]
    u = encoder(torch.randn(3, 10), torch.randn(3, 6, 5, 4))
    assert u.shape == (3, bits)
    assert (u.abs() < 1).all()


def test_dual_is_one_hash_layer_on_both_branches() -> None:
    encoder = DualBranchEncoder(10, 6, 5, hidden=8, spatial_hidden=4)
    feature, feature_map = torch.randn(3, 10), torch.randn(3, 6, 2, 2)
    joined = torch.cat([encoder.global_branch(feature), encoder.spatial_branch(feature_map)], dim=1)
    weight, bias = encoder.hash_layer.weight, encoder.hash_layer.bias
    torch.testing.assert_close(encoder(feature, feature_map), torch.tanh(joined @ weight.T + bias))
    for parameter in encoder.parameters():
        assert parameter.requires_grad


@pytest.mark.parametrize("bits", [0, -3, 1025])
def test_impossible_code_length_is_refused(bits: int) -> None:
    with pytest.raises(InputError, match=r"--model\.bits"):
        DualBranchEncoder(10, 6, bits)


def test_spatial_branch_without_a_map_is_refused() -> None:
    with pytest.raises(InputError, match="feature map"):
        DualBranchEncoder(10, 6, 8)(torch.randn(2, 10))


def test_pooling_closed_forms() -> None:
    feature_map = torch.rand(2, 3, 4, 4) + 0.1
    torch.testing.assert_close(SpatialPool(3, "average")(feature_map), feature_map.mean((2, 3)))
    gem = SpatialPool(3, "gem")
    torch.testing.assert_close(gem(feature_map), (feature_map**3).mean((2, 3)) ** (1 / 3))
    attention = SpatialPool(3, "attention")
    torch.nn.init.zeros_(attention.score.weight)
    torch.testing.assert_close(
        attention(feature_map), feature_map.mean((2, 3))
    )  # equal scores are a plain mean
