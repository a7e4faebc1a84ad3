"""A miniature of the official NUS-WIDE tree: Imagelist.txt, Labels_*.txt, Concepts81.txt."""

from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.data.nuswide import NUSWIDE, PROTOCOLS
from udmsh_pl.errors import InputError

COUNT = 600
CONCEPTS = [f"concept{number:02d}" for number in range(81)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, place_images) -> Path:
    root = tmp_path_factory.mktemp("nuswide")
    generator = np.random.default_rng(0)
    chance = np.concatenate(
        [[0.02] * 30, np.linspace(0.1, 0.3, 21), [0.01] * 30]
    )  # the 21 most frequent: 30..50
    table = generator.random((COUNT, 81)) < chance
    names = [f"concept{row % 81:02d}\\{row:04d}_{1_000_000 + row}.jpg" for row in range(COUNT)]
    (root / "ImageList").mkdir()
    (root / "ImageList/Imagelist.txt").write_text("".join(f"{name}\r\n" for name in names))
    (root / "Concepts81.txt").write_text("".join(f"{concept}\n" for concept in CONCEPTS))
    labels = root / "Groundtruth/AllLabels"
    labels.mkdir(parents=True)
    for column, concept in enumerate(CONCEPTS):
        (labels / f"Labels_{concept}.txt").write_text(
            "".join(f"{int(flag)}\n" for flag in table[:, column])
        )
    place_images(root / "Flickr", (name.replace("\\", "/") for name in names))
    return root


def test_21_concepts(root: Path) -> None:
    splits = NUSWIDE(root=root, queries=42, train=105).splits
    assert splits.protocol.name == "21-concepts-q42-t105"
    assert (len(splits.query), len(splits.train)) == (42, 105)
    assert (splits.query.labels.sum(axis=0) >= 2).all()
    assert (splits.train.labels.sum(axis=0) >= 5).all()
    assert set(splits.train.names) < set(splits.database.names)
    assert splits.database.labels.any(axis=1).all()
    assert splits.query.load(0).size == (8, 8)
    assert not splits.query.upright  # published numbers know no orientation
    row = int(splits.query.names[0].split("/")[1][:4])
    flags = [
        (root / f"Groundtruth/AllLabels/Labels_{concept}.txt").read_text().split()[row] == "1"
        for concept in CONCEPTS[30:51]
    ]
    assert splits.query.labels[0].tolist() == flags


@pytest.mark.parametrize(("protocol", "labels"), [("81-concepts", 81), ("10-concepts", 10)])
def test_other_protocols(root: Path, protocol: str, labels: int) -> None:
    splits = NUSWIDE(root=root, protocol=protocol, queries=30, train=60).splits
    assert (len(splits.query), len(splits.train)) == (30, 60)
    assert splits.database.labels.shape[1] == labels


def test_the_seed_decides(root: Path) -> None:
    first, again, other = (
        NUSWIDE(root=root, queries=42, train=105, split_seed=seed).splits for seed in (0, 0, 1)
    )
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert list(first.query.names) == list(again.query.names)


def test_missing_pictures(root: Path, tmp_path: Path, place_images) -> None:
    whole = NUSWIDE(root=root, queries=42, train=105).splits
    gone = {whole.query.names[0], *whole.train.names[:2]}
    names = {*whole.query.names, *whole.database.names} - gone
    place_images(tmp_path, names)
    module = NUSWIDE(root=root, images=tmp_path, queries=42, train=105)
    total = len(whole.database)
    counts = (
        f"1 of 42 query images, 2 of 105 train images, 2 of {total} database images are missing"
    )
    with pytest.raises(InputError, match=counts + ".*allow_missing true"):
        module.load_splits()
    module.allow_missing = True
    part = module.load_splits()
    assert dict(part.missing) == {"query": 1, "train": 2, "database": 2}
    assert (
        set(part.query.names) == set(whole.query.names) - gone
    )  # the draw does not depend on what is there
    assert part.fingerprint() != whole.fingerprint()
    with pytest.raises(InputError, match=r"42 of 42 query images.* set --data.root"):
        NUSWIDE(
            root=root, images=tmp_path / "none", queries=42, train=105, allow_missing=True
        ).load_splits()


def test_published_numbers_need_the_whole_set(root: Path) -> None:
    with pytest.raises(InputError, match="draws 100 query images for each label"):
        NUSWIDE(root=root).load_splits()


def test_malformed_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"Imagelist.txt: not there; NUS-WIDE cannot be downloaded"
    ):
        NUSWIDE(root=tmp_path).load_splits()
    for name in ("ImageList", "Groundtruth", "Concepts81.txt"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "Groundtruth").unlink()
    labels = tmp_path / "Groundtruth/AllLabels"
    labels.mkdir(parents=True)
    for concept in CONCEPTS[1:]:
        (labels / f"Labels_{concept}.txt").symlink_to(
            root / f"Groundtruth/AllLabels/Labels_{concept}.txt"
        )
    module = NUSWIDE(root=tmp_path, queries=42, train=105)
    with pytest.raises(InputError, match=r"Labels_concept00.txt: cannot be read"):
        module.load_splits()
    for content, message in [
        ("0\n" * (COUNT - 1), f"has {COUNT - 1} lines, Imagelist.txt {COUNT}; unpack"),
        ("0\n1\n2\n" + "0\n" * (COUNT - 3), r"txt:3: expected 0 or 1, found b'2'"),
        ("0\n10\n" + "0\n" * (COUNT - 3), r"txt:2: expected 0 or 1, found b'10'"),
    ]:
        (labels / "Labels_concept00.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            module.load_splits()


def test_lists_instead_of_a_draw(tmp_path: Path, place_images) -> None:
    labels = " ".join(["1"] + ["0"] * 20)
    for name, image in (
        ("test", "images/q.jpg"),
        ("train", "images/a.jpg"),
        ("database", "images/a.jpg"),
    ):
        (tmp_path / f"{name}.txt").write_text(f"{image} {labels}\n")
    place_images(tmp_path, ["images/q.jpg", "images/a.jpg"])
    splits = NUSWIDE(root=tmp_path, lists=tmp_path).splits
    assert splits.protocol == PROTOCOLS["21-concepts"]
    assert list(splits.query.names) == ["images/q.jpg"]
    with pytest.raises(InputError, match=r"test.txt:1: expected a path and 81 labels"):
        NUSWIDE(root=tmp_path, lists=tmp_path, protocol="81-concepts").load_splits()


def test_protocol_counts_add_up() -> None:
    assert PROTOCOLS["21-concepts"].queries + PROTOCOLS["21-concepts"].database == 195_834


def test_the_command_line_trains_and_scores_it(root: Path, train_and_score) -> None:
    metrics = train_and_score("NUSWIDE", {"root": str(root), "queries": 42, "train": 105})
    # All pictures are the same one, so all codes are tied, and the mAP is the share of relevant
    # images.
    splits = NUSWIDE(root=root, queries=42, train=105).splits
    relevant = (splits.query.labels.astype(int) @ splits.database.labels.T) > 0
    assert metrics["test/map@all"] == pytest.approx(relevant.mean(), abs=0.01)
