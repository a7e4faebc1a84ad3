import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import bootstrap_interval, code_quality, neighbour_flips, pack_codes


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
    assert neighbour_flips(pack_codes(np.array([[1.0, 1], [1, 1], [-1, -1], [-1, 1]])), features, 2) == 0.5
    with pytest.raises(InputError, match=r"4 codes|1 codes"):
        neighbour_flips(np.zeros((1, 1), np.uint8), features, 2)
    with pytest.raises(InputError, match="neighbour"):
        neighbour_flips(np.zeros((1, 1), np.uint8), features[:1], 2)
    with pytest.raises(InputError, match="empty"):
        code_quality(np.zeros((0, 1), np.uint8), 2)


def test_a_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_interval(rng.beta(2, 3, 200), samples=300, seed=trial)
        covered += low <= 0.4 <= high
    assert 85 <= covered <= 100


def test_a_bootstrap_repeats_with_its_seed_and_names_misuse():
    values = np.random.default_rng(1).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(np.ones(5)) == (1.0, 1.0)
    for arguments, message in (((np.empty(0),), "no values"), ((values, 95), "between 0 and 1"), ((values, 0.9, 0), "samples")):
        with pytest.raises(InputError, match=message):
            bootstrap_interval(*arguments)
