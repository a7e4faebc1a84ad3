"""Inverted lists against looking at every code, and what they do with damage and bad numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.lists import BLOCK, InvertedLists, build_lists, lists_for, scan

Codes = NDArray[np.uint8]


def clustered(count: int, bits: int = 64, seed: int = 0, of: int = 40) -> Codes:
    """Codes around ``of`` centres, each bit flipped with probability 1/8; idle bits are 0."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(1).random((of, bits)) < 0.5
    flips = generator.random((count, bits)) < 1 / 8
    return np.packbits(centres[generator.integers(of, size=count)] ^ flips, 1, bitorder="little")


def brute(code: Codes, codes: Codes, count: int) -> tuple[list[int], list[int]]:
    """The nearest and all that tie with the last of them, by plain NumPy."""
    distances = np.unpackbits(codes ^ code, axis=1).sum(1)
    order = np.argsort(distances, kind="stable")
    last = distances[order[min(count, len(order)) - 1]]
    order = order[: (distances <= last).sum()]
    return distances[order].tolist(), order.tolist()


@pytest.mark.parametrize("bits", [1, 12, 64, 100, 128])
@pytest.mark.parametrize("threads", [1, 3])
def test_looking_into_all_lists_is_exact(tmp_path: Path, bits: int, threads: int) -> None:
    codes, queries = clustered(2000, bits), clustered(10, bits, seed=2)
    lists = build_lists(tmp_path / "lists", codes, bits, lists=30, threads=threads)
    for query in queries:
        for count in (1, 7, 2000, 5000):
            distances, rows = lists.search(query, count, probes=lists.facts.lists, threads=threads)
            assert (distances.tolist(), rows.tolist()) == brute(query, codes, count)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 40),
    room=st.integers(0, 30),
    tail=st.lists(st.integers(0, 5), min_size=1, max_size=300),
)
def test_little_room_costs_ties_alone(count: int, room: int, tail: list[int]) -> None:
    """Codes of up to five bits set, scanned with room for few: the nearest are still all there."""
    codes = np.array([[(1 << ones) - 1] for ones in tail], np.uint64)
    rows, whole = np.arange(len(tail), dtype=np.uint32), np.array([0, len(tail)])
    near, found = scan(
        np.zeros(1, np.uint64), np.zeros(1, np.int64), whole, codes, rows, count,
        2 * count + 1 + room,
    )  # fmt: skip
    assert len(set(found.tolist())) == len(found) >= min(count, len(tail))
    assert [tail[row] for row in found.tolist()] == near.tolist()
    assert sorted(near.tolist())[:count] == sorted(tail)[:count]


def test_a_few_lists_reach_the_wanted_recall(tmp_path: Path) -> None:
    codes, queries = clustered(60_000), clustered(100, seed=3)
    lists = build_lists(tmp_path / "lists", codes, 64, recall=0.9, lists=200)
    assert lists.facts.probes < lists.facts.lists / 2
    assert lists.facts.recall >= 0.9
    found = []
    for query in queries:
        furthest = brute(query, codes, 100)[0][99]
        found.append((lists.search(query, 100)[0][:100] <= furthest).mean())
    assert np.mean(found) > 0.87
    assert lists.nbytes() / len(codes) < 12.5
    assert (np.sort(lists.rows) == np.arange(len(codes))).all()
    more = build_lists(tmp_path / "more", codes, 64, recall=0.99, lists=200)
    assert more.facts.probes > lists.facts.probes


def test_codes_come_in_blocks(tmp_path: Path) -> None:
    """What is no array, but has slices, as rows of segments; never more than a block at once."""
    codes = clustered(3000)

    class Slices:
        asked: list[int] = []  # noqa: RUF012

        def __len__(self) -> int:
            return len(codes)

        def __getitem__(self, part: slice) -> Codes:
            found = codes[part]
            self.asked.append(len(found))
            return found

    # and placed in several runs
    one = build_lists(tmp_path / "one", Slices(), 64, lists=16, block=256, at_once=500)
    other = build_lists(tmp_path / "other", codes, 64, lists=16)
    assert max(Slices.asked) <= 256 < BLOCK
    for name in ("centres.npy", "starts.npy", "codes.npy", "rows.npy", "lists.json"):
        same = (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
        assert same, name
    assert len(one) == len(other) == 3000


def test_more_is_asked_for_than_its_lists_hold(tmp_path: Path) -> None:
    codes = clustered(1000)
    lists = build_lists(tmp_path / "lists", codes, 64, recall=0.2, lists=100)
    assert len(lists.search(codes[0], 1000)[0]) == 1000


def test_lists_grow_with_the_root_of_the_number() -> None:
    assert [lists_for(n) for n in (1, 10_000, 10**7, 10**8, 10**9)] == [
        1,
        512,
        16384,
        32768,
        131072,
    ]


@pytest.mark.parametrize("name", ["centres.npy", "starts.npy", "codes.npy", "rows.npy"])
def test_files_that_do_not_belong_together_are_one_line(tmp_path: Path, name: str) -> None:
    build_lists(tmp_path / "lists", clustered(500), 64)
    build_lists(tmp_path / "other", clustered(400, 128), 128)
    damaged = tmp_path / "lists" / name
    whole = damaged.read_bytes()
    for content in (b"", whole[: len(whole) // 2], (tmp_path / "other" / name).read_bytes()):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="build the lists anew") as told:
            InvertedLists(tmp_path / "lists")
        assert "\n" not in str(told.value)


def test_foreign_facts_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no inverted lists"):
        InvertedLists(tmp_path)
    lists = build_lists(tmp_path / "lists", clustered(100), 64)
    path = tmp_path / "lists/lists.json"
    plain = json.loads(path.read_text())
    for change in ({"format": 2}, {"probes": 0}, {"count": "many"}, {"more": 1}):
        path.write_text(json.dumps(plain | change))
        with pytest.raises(InputError, match="damaged"):
            InvertedLists(tmp_path / "lists")
    path.write_text("[1]")
    with pytest.raises(InputError, match="damaged"):
        InvertedLists(tmp_path / "lists")
    for count, probes in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="above 0"):
            lists.search(clustered(1)[0], count, probes)
    with pytest.raises(InputError, match="bits need"):
        lists.search(clustered(1, 128)[0], 1)


def test_what_cannot_be_built_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    codes = clustered(50)
    for bad, told in ((0.0, "recall is"), (1.5, "recall is")):
        with pytest.raises(InputError, match=told):
            build_lists(tmp_path / "lists", codes, 64, recall=bad)
    with pytest.raises(InputError, match="0 codes"):
        build_lists(tmp_path / "lists", codes[:0], 64)

    class Full:
        def __len__(self) -> int:
            return 50

        def __getitem__(self, part: slice) -> Codes:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        build_lists(tmp_path / "lists", Full(), 64)
    assert list(tmp_path.iterdir()) == []
