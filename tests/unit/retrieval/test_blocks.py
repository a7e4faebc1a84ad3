import numpy as np
import pytest
from tests.unit.retrieval import oracle

from udmsh_pl.retrieval import counting
from udmsh_pl.retrieval.codes import WordArrays, code_words, label_words
from udmsh_pl.retrieval.compiled import ITEMS, Blocks, aligned_zeros


def words(case) -> WordArrays:
    return WordArrays(*map(code_words, case[:2]), *map(label_words, case[2:]))


def test_blocks_hold_every_item_once_even_codes_first():
    case = oracle.random_case(3, 1000, 20, 70)
    laid = Blocks.of(words(case))
    assert laid.database.ctypes.data % 64 == 0
    assert len(laid.database) == laid.parts[2]
    assert laid.codes.shape == (4, laid.database.shape[1])
    seen = []
    for part in range(2):
        items = (
            laid.database[laid.parts[part] : laid.parts[part + 1]]
            .transpose(0, 2, 1)
            .reshape(-1, laid.database.shape[1])
        )
        real, idle = np.split(items, [len(items) - laid.idle[part]])
        assert not idle.any()
        assert 0 <= laid.idle[part] < ITEMS
        assert (np.unpackbits(real[:, : laid.code_planes], axis=1).sum(axis=1) % 2 == part).all()
        seen += [bytes(row) for row in real]
    octets = np.concatenate([case[1], np.packbits(case[3], axis=1, bitorder="little")], axis=1)
    known = [
        bytes(np.concatenate([row[:3], np.zeros(5, np.uint8), row[3:], np.zeros(3, np.uint8)]))
        for row in octets
    ]
    assert sorted(seen) == sorted(known)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 255, 256, 257, 640])
@pytest.mark.parametrize("parity", ["mixed", "even", "odd"])
def test_counts_of_parts_that_are_empty_or_end_inside_a_block(size, parity, monkeypatch):
    query, database, wanted, have = oracle.random_case(5, size, 16, 3)
    if parity != "mixed":
        ones = np.unpackbits(database, axis=1).sum(axis=1) % 2
        database = database ^ np.array([1, 0], np.uint8) * (ones != (parity == "odd"))[
            :, None
        ].astype(np.uint8)
    case = (query, database, wanted, have)
    found = counting.count_grades(words(case), 16, 2, threads=1)
    monkeypatch.setenv("UDMSH_NO_NUMBA", "1")
    assert (found == counting.count_grades(words(case), 16, 2)).all()


@pytest.mark.parametrize("bits", [2, 63, 127, 128, 254, 255, 256])
def test_the_nearest_and_the_farthest_code_of_any_length(bits):
    ones = np.packbits(np.ones((1, bits), bool), axis=1, bitorder="little")
    case = (
        np.concatenate([ones, ones & 0, ones]),
        np.concatenate([ones & 0, ones]),
        np.ones((3, 1), bool),
        np.eye(2, 1, dtype=bool),
    )
    found = counting.count_grades(words(case), bits, 2)
    assert found.sum() == 6
    assert found[0, bits, 1] == found[0, 0, 0] == 1  # the farthest is relevant, the nearest is not
    assert found[1, 0, 1] == found[1, bits, 0] == 1
    assert (found[2] == found[0]).all()


def test_items_without_any_label_are_relevant_to_nobody():
    query, database, wanted, have = oracle.random_case(4, 500, 24, 9)
    have[::2], wanted[0] = False, False
    found = counting.count_distances(words((query, database, wanted, have)), 24)
    assert (found[0].sum(axis=1) == 500).all()
    assert found[1][0].sum() == 0
    assert (found[1].sum(axis=1) == (oracle.shared(wanted, have) > 0).sum(axis=1)).all()


def test_zeros_begin_at_a_cache_line():
    zeros = aligned_zeros((3, 5), np.uint16)
    assert zeros.ctypes.data % 64 == 0
    assert zeros.shape == (3, 5)
    assert not zeros.any()
