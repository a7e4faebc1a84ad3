import json
import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import BinaryIndex, pack_codes
from udmsh_pl.retrieval.index import MAGIC, Head, write_index

KINDS = ("flat", "ivf", "hnsw", "multihash")


def codes(items: int, bits: int, seed: int = 0) -> np.ndarray:
    return pack_codes(np.random.default_rng(seed).random((items, bits)) < 0.5)


def brute(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distance = np.unpackbits(queries[:, None] ^ database[None], axis=2).sum(axis=2)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distance, order, 1), order


@pytest.mark.parametrize("bits", [7, 12, 64, 130])
@pytest.mark.parametrize("k", [1, 40, 700])
def test_flat_is_brute_force_in_row_order(bits, k):
    database, queries = codes(700, bits), codes(9, bits, 1)
    index = BinaryIndex(bits)
    index.add(database[:300])
    index.add(database[300:])
    distance, ids = index.search(queries, k)
    expected = brute(queries, database, k)
    assert (distance == expected[0]).all()
    assert (ids == expected[1]).all()


def test_padding_12_bits_to_16_leaves_distances_as_they_are():
    values = np.random.default_rng(0).random((50, 12)) < 0.5
    index = BinaryIndex(12)
    index.add(pack_codes(values))
    distance, ids = index.search(pack_codes(values[:5]), 50)
    hamming = (values[:5, None] != values[None]).sum(axis=2)
    assert (distance == np.take_along_axis(hamming, ids, 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_a_stored_code_and_answers_alike_after_loading(kind, tmp_path):
    database = codes(2000, 32)
    index = BinaryIndex(32, kind)
    index.add(database, ids=np.arange(2000) + 500)
    distance, ids = index.search(database[:50], 3)
    assert (distance[:, 0] == 0).all()
    assert (database[ids[:, 0] - 500] == database[:50]).all()
    index.save(tmp_path / "x.index", model_hash="abc")
    loaded = BinaryIndex.load(tmp_path / "x.index", bits=32, model_hash="abc")
    again = loaded.search(database[:50], 3)
    assert (again[0] == distance).all()
    assert (again[1] == ids).all()
    assert len(loaded) == 2000


@pytest.mark.parametrize("kind", KINDS)
def test_range_search_includes_the_radius(kind):
    database = pack_codes(np.tri(17, 16, -1) > 0)  # item i has i bits set
    index = BinaryIndex(16, kind, lists=1, hashes=1, hash_bits=4, flips=4)
    index.add(database)
    ((distance, ids),) = index.range_search(database[:1], 3)
    assert distance.tolist() == [0, 1, 2, 3]
    assert ids.tolist() == [0, 1, 2, 3]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    index = BinaryIndex(16)
    index.add(codes(100, 16))
    index.save(tmp_path / "a.index", model_hash="one")
    return tmp_path / "a.index"


def test_every_truncation_is_an_error(saved):
    content = saved.read_bytes()
    for size in [
        0,
        3,
        len(MAGIC),
        len(MAGIC) + 5,
        *range(len(MAGIC) + 20, len(content), 41),
        len(content) - 1,
    ]:
        saved.write_bytes(content[:size])
        with pytest.raises(InputError, match="cut short or altered"):
            BinaryIndex.load(saved)


def test_every_altered_byte_is_an_error(saved):
    content = saved.read_bytes()
    for place in range(0, len(content), 7):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"altered|not an index"):
            BinaryIndex.load(saved)


def test_other_files_lengths_and_models_are_errors(saved, tmp_path):
    with pytest.raises(InputError, match="16 bits, not 32"):
        BinaryIndex.load(saved, bits=32)
    with pytest.raises(InputError, match="another model"):
        BinaryIndex.load(saved, model_hash="two")
    with pytest.raises(InputError, match="cannot read this index"):
        BinaryIndex.load(tmp_path / "absent")
    (tmp_path / "text").write_text("hello, I am a text file and no index")
    with pytest.raises(InputError, match="not an index"):
        BinaryIndex.load(tmp_path / "text")
    hostile = json.dumps(
        {"bits": 16, "count": 10**18, "kind": "flat", "model_hash": "", "bytes": 0, "sha256": ""}
    )
    (tmp_path / "text").write_bytes(MAGIC + hostile.encode() + b"\n")
    with pytest.raises(InputError, match="altered"):
        BinaryIndex.load(tmp_path / "text")


@pytest.mark.parametrize(
    ("kind", "name", "wrong", "right"),
    [
        ("flat", "bits", (0, -1, 65_537, 2.0, None, True), (1, 65_536)),
        ("ivf", "lists", (0, -1, 2**20 + 1, 1.5), (1, 2**20)),
        ("ivf", "probes", (0, -1, 2**20 + 1, 1.5), (1, 2**20)),
        ("hnsw", "links", (0, 1, -1, 513, "8"), (2, 512)),
        ("hnsw", "effort", (0, -1, 100_001), (1, 100_000)),
        ("multihash", "hashes", (0, -1, 1025), (1, 1024)),
        ("multihash", "hash_bits", (0, -1, 9, 65), (1, 8)),
        ("multihash", "flips", (-1, 9, 65), (0, 8)),
    ],
)
def test_every_number_has_a_range(kind, name, wrong, right):
    for value in wrong:
        with pytest.raises(InputError, match=rf"{name} is {value}".replace("8", "'?8'?")):
            BinaryIndex(**({"bits": 32, "kind": kind} | {name: value}))
    for value in right:
        bits = value if name == "bits" else 32
        index = BinaryIndex(**({"bits": bits, "kind": kind} | {name: value}))
        database = codes(20, bits)
        index.add(database)
        distance, ids = index.search(database[:1], 1)
        found = database[ids[0, 0]] ^ database[0]  # hnsw with effort 1 finds another item
        assert distance[0, 0] == np.unpackbits(found).sum()


def test_keys_without_end_are_refused():
    with pytest.raises(InputError, match=r"flips is 8: that makes .* keys of 60 bits"):
        BinaryIndex(64, "multihash", hashes=1, hash_bits=60, flips=8)


@pytest.mark.parametrize("ids", [[-1, 0], [2**64 - 1, 0]])
def test_ids_are_rows(ids):
    index = BinaryIndex(16)
    with pytest.raises(InputError, match="negative or huge"):
        index.add(codes(2, 16), ids=np.array(ids, dtype=np.int64 if min(ids) < 0 else np.uint64))


def test_k_and_radius():
    index = BinaryIndex(16)
    index.add(codes(5, 16))
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="k is"):
            index.search(codes(1, 16), wrong)
    for wrong in (-1, 0.5):
        with pytest.raises(InputError, match="radius is"):
            index.range_search(codes(1, 16), wrong)
    assert index.search(codes(1, 16), 2**70)[0].shape == (1, 5)
    assert len(index.range_search(codes(1, 16), 2**70)[0][0]) == 5


def test_a_head_that_lies_under_a_right_checksum(tmp_path):
    index = faiss.IndexBinaryFlat(16)
    index.add(codes(5, 16))
    content = faiss.serialize_index_binary(index)
    for head, ids in (
        (Head(16, 4, "flat", ""), np.arange(4)),
        (Head(32, 5, "flat", ""), np.arange(5)),
    ):
        write_index(tmp_path / "a", head, ids, content)
        with pytest.raises(InputError, match="does not hold what its head says"):
            BinaryIndex.load(tmp_path / "a")


def test_an_index_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(InputError, match=r"cannot read this index .*a pipe"):
        BinaryIndex.load(tmp_path / "a")


def test_misuse_is_named():
    index = BinaryIndex(16)
    with pytest.raises(InputError, match="empty"):
        index.search(codes(1, 16), 1)
    with pytest.raises(InputError, match="kind"):
        BinaryIndex(16, "tree")
    with pytest.raises(InputError, match="2\\] bytes"):
        index.add(codes(3, 32))
    with pytest.raises(InputError, match="ids"):
        index.add(codes(3, 16), ids=[1, 2])
    with pytest.raises(InputError, match="empty"):
        index.save("nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_million_codes_through_each_kind(kind, tmp_path):
    # codes around centres, as a network gives: in uniform noise no graph finds its way
    rng = np.random.default_rng(0)
    flips = rng.random((1_000_000, 64), dtype=np.float32) < 0.1
    million = codes(500, 64)[rng.integers(0, 500, 1_000_000)] ^ pack_codes(flips)
    index = BinaryIndex(64, kind, links=8, effort=24)
    index.add(million)
    queries = million[::10_007]
    distance, ids = index.search(queries, 10)
    assert (distance[:, 0] == 0).mean() > (0.5 if kind == "hnsw" else 0.99)
    index.save(tmp_path / "million.index", model_hash="m")
    again = BinaryIndex.load(tmp_path / "million.index", 64, "m").search(queries, 10)
    assert (again[0] == distance).all()
    assert (again[1] == ids).all()
    content = (tmp_path / "million.index").read_bytes()
    (tmp_path / "million.index").write_bytes(content[:-1])
    with pytest.raises(InputError, match="cut short"):
        BinaryIndex.load(tmp_path / "million.index")
