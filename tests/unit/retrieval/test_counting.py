import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tests.unit.retrieval import oracle

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import counting, gpu
from udmsh_pl.retrieval.codes import WordArrays, code_words, label_words

SHAPES = [
    (1, 1),
    (12, 5),
    (64, 21),
    (64, 33),
    (64, 70),
    (65, 21),
    (127, 3),
    (128, 81),
    (129, 21),
    (300, 5),
    (1030, 200),
]


def words(case) -> WordArrays:
    return WordArrays(*map(code_words, case[:2]), *map(label_words, case[2:]))


def brute(case, bits: int, levels: int) -> np.ndarray:
    grade = np.minimum(oracle.shared(case[2], case[3]), levels - 1)
    cells = oracle.hamming(case[0], case[1]) * levels + grade
    return np.stack([np.bincount(row, minlength=levels * (bits + 1)) for row in cells]).reshape(
        -1, bits + 1, levels
    )


@pytest.mark.parametrize(("bits", "labels"), SHAPES)
@pytest.mark.parametrize("levels", [2, 4])
def test_numba_numpy_and_torch_count_what_brute_force_counts(bits, labels, levels, monkeypatch):
    case = oracle.random_case(11, 2100, bits, labels)
    expected = brute(case, bits, levels)
    assert counting.compiled_loops() is not None
    assert (counting.count_grades(words(case), bits, levels, threads=1) == expected).all()
    assert (counting.count_grades(words(case), bits, levels, threads=3) == expected).all()
    assert (gpu.count_grades(words(case), bits, levels, "cpu", 512) == expected).all()
    monkeypatch.setenv("UDMSH_NO_NUMBA", "1")
    assert counting.compiled_loops() is None
    assert (counting.count_grades(words(case), bits, levels) == expected).all()


@pytest.mark.parametrize("bits", [1, 64, 128])
def test_a_16_bit_cell_never_overflows(bits):
    # one code, one label: every item falls into one cell of the joint table
    case = [np.zeros((n, (bits + 7) // 8), np.uint8) for n in (3, 200_000)] + [
        np.ones((n, 1), bool) for n in (3, 200_000)
    ]
    items, relevant = counting.count_distances(words(case), bits, threads=1)
    assert (items[:, 0] == 200_000).all()
    assert (relevant[:, 0] == 200_000).all()
    assert items.sum() == 600_000


def test_counts_of_shards_add_up():
    case = oracle.random_case(9, 1000, 24, 6)
    whole = counting.count_distances(words(case), 24)
    parts = []
    for rows in (slice(0, 1), slice(1, 640), slice(640, 1000)):
        parts.append(
            counting.count_distances(words((case[0], case[1][rows], case[2], case[3][rows])), 24)
        )
    for side in (0, 1):
        assert (sum(part[side] for part in parts) == whole[side]).all()


@pytest.mark.parametrize(("bits", "labels"), [(3, 2), (64, 21), (128, 81), (300, 5)])
def test_ranks_in_row_order_with_and_without_numba(bits, labels, monkeypatch):
    case = oracle.random_case(7, 1500, bits, labels)
    counts = counting.count_distances(words(case), bits)
    distance, shared = oracle.hamming(case[0], case[1]), oracle.shared(case[2], case[3]) > 0
    for setting in ("0", "1"):
        monkeypatch.setenv("UDMSH_NO_NUMBA", setting)
        seen: dict[int, np.ndarray] = {}

        def keep(row: int, ranks: np.ndarray, seen: dict[int, np.ndarray] = seen) -> None:
            seen[row] = ranks.copy()

        counting.each_stable_ranking(words(case), *counts, keep, 2)
        for row in range(7):
            order = np.argsort(distance[row], kind="stable")
            assert (seen[row] == np.flatnonzero(shared[row][order]) + 1).all()


def test_without_numba_all_numbers_are_equal_to_the_last_bit():
    script = """
        import numpy as np
        from udmsh_pl.retrieval import evaluate_codes, pack_codes
        from udmsh_pl.retrieval import counting
        rng = np.random.default_rng(5)
        codes = [pack_codes(rng.random((n, 20)) < 0.5) for n in (30, 3000)]
        labels = [rng.random((n, 8)) < 0.2 for n in (30, 3000)]
        r = evaluate_codes(*codes, *labels, 20, ks=(100, None))
        found = (r.average_precision, r.id_average_precision, r.graded.ndcg_per_query)
        parts = [per_query[k] for per_query in found for k in r.ks]
        print(counting.compiled_loops() is not None, np.concatenate(parts).tobytes().hex())
    """
    found = []
    for setting in ("0", "1"):
        environment = os.environ | {"UDMSH_NO_NUMBA": setting}
        command = [sys.executable, "-c", textwrap.dedent(script)]
        found.append(
            subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout.split()
        )
    assert [numba for numba, _ in found] == ["True", "False"]
    assert found[0][1] == found[1][1]


def test_a_device_that_is_not_there_is_named(monkeypatch):
    case = oracle.random_case(1, 3, 8, 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU here"):
        counting.count_distances(words(case), 8, device="cuda")
    with pytest.raises(InputError, match="'cpu' or 'cuda'"):
        counting.count_distances(words(case), 8, device="warp drive")


@pytest.mark.parametrize("k", [1, 700, 3000])
def test_search_in_torch_is_a_stable_sort_at_any_k(k):
    case = oracle.random_case(70, 3000, 12, 2)
    distance = oracle.hamming(case[0], case[1])
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    found = gpu.torch_search(*words(case)[:2], k, "cpu", 1024)
    assert (found[1] == order).all()
    assert (found[0] == np.take_along_axis(distance, order, 1)).all()
