import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import code_quality, neighbour_flips, pack_codes


def test_quality_equals_numpys_definitions():
    rng = np.random.default_rng(0)
    bits = rng.random((500, 11)) < np.linspace(0.1, 0.9, 11)
    bits[:, 4] = bits[:, 3]  # a repeated bit
    quality = code_quality(pack_codes(bits), 11)
    assert quality.balance == pytest.approx(bits.mean(axis=0))
    expected = np.abs(np.corrcoef(bits.T.astype(float)))[np.triu_indices(11, 1)]
    assert quality.correlation == pytest.approx(expected.mean(), abs=1e-6)
    assert quality.imbalance == pytest.approx(np.abs(2 * bits.mean(axis=0) - 1).mean())
    rows, counts = np.unique(bits, axis=0, return_counts=True)
    assert quality.distinct == len(rows)
    share = counts / 500
    assert quality.code_entropy == pytest.approx(-(share * np.log2(share)).sum())
    assert quality.items == 500


def test_collapsed_and_perfect_codes():
    constant = code_quality(np.zeros((64, 1), np.uint8), 6)
    assert (constant.imbalance, constant.correlation, constant.bit_entropy) == (1.0, 0.0, 0.0)
    assert (constant.code_entropy, constant.distinct) == (0.0, 1)
    every = code_quality(np.arange(64, dtype=np.uint8)[:, None], 6)
    assert (every.imbalance, every.bit_entropy, every.distinct) == (0.0, 1.0, 64)
    assert every.code_entropy == pytest.approx(6.0)
    assert every.correlation == pytest.approx(0.0, abs=1e-9)
    assert code_quality(np.ones((3, 1), np.uint8), 1).correlation == 0.0


def test_flips_between_neighbours():
    features = np.array([[1, 0.0], [1, 0.1], [0, 1.0], [0.1, 1]])
    assert (
        neighbour_flips(pack_codes(np.array([[1.0, 1], [1, 1], [-1, -1], [-1, 1]])), features, 2)
        == 0.5
    )
    with pytest.raises(InputError, match=r"4 codes|1 codes"):
        neighbour_flips(np.zeros((1, 1), np.uint8), features, 2)
    with pytest.raises(InputError, match="neighbour"):
        neighbour_flips(np.zeros((1, 1), np.uint8), features[:1], 2)
    with pytest.raises(InputError, match="empty"):
        code_quality(np.zeros((0, 1), np.uint8), 2)
