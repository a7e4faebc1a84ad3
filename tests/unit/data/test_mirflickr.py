"""MIRFLICKR's archives: im1.jpg .. im25000.jpg, meta/tags/tagsN.txt, a file an annotation."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Once, PlaceImages

from udmsh_pl.data.mirflickr import MIRFlickr
from udmsh_pl.errors import InputError

# fmt: off
STRICT = ["baby", "bird", "car", "clouds", "dog", "female", "flower", "male", "night", "people",
          "portrait", "river", "sea", "tree"]
CONCEPTS = sorted([*STRICT, "animals", "food", "indoor", "lake", "plant_life", "sky", "structures",
                   "sunset", "transport", "water"])
# fmt: on
COUNT = 25_000


@pytest.fixture(scope="module")
def root(once: Once, place_images: PlaceImages) -> Path:
    return once("mirflickr", lambda root: make(root, place_images))


def make(root: Path, place_images: PlaceImages) -> None:
    generator = np.random.default_rng(0)
    annotations = root / "mirflickr25k_annotations_v080"
    annotations.mkdir()
    (annotations / "README.txt").write_text("MIRFLICKR-25000 annotations v0.80\n")
    for concept in CONCEPTS:
        numbers = np.flatnonzero(generator.random(COUNT) < 0.1) + 1
        (annotations / f"{concept}.txt").write_text("".join(f"{number}\r\n" for number in numbers))
        if concept in STRICT:
            (annotations / f"{concept}_r1.txt").write_text(
                "".join(f"{number}\r\n" for number in numbers[::2])
            )
    tags = root / "mirflickr/meta/tags"
    tags.mkdir(parents=True)
    for number in range(1, COUNT + 1):
        # Three in four images have a common tag; the others have none or one of their own.
        common = (
            f"sky\r\nrare{number}\r\n"
            if number % 4
            else ("" if number % 8 else f"rare{number}\r\n")
        )
        (tags / f"tags{number}.txt").write_text(common)
    place_images(root / "mirflickr", (f"im{number}.jpg" for number in range(1, COUNT + 1)))


def test_24_labels(root: Path) -> None:
    module = MIRFlickr(root=root)
    module.download()  # both folders are there, so nothing is fetched
    splits = module.splits
    assert (len(splits.query), len(splits.train)) == (2_000, 10_000)
    assert set(splits.train.names) < set(splits.database.names)
    assert splits.database.labels.shape[1] == 24
    assert not splits.query.upright  # published numbers know no orientation
    numbers = [int(name[2:-4]) for name in (*splits.query.names, *splits.database.names)]
    assert all(number % 4 for number in numbers)
    assert splits.database.labels.any(axis=1).all()
    animals = set(
        map(int, (root / "mirflickr25k_annotations_v080/animals.txt").read_text().split())
    )
    assert all(
        (number in animals) == label
        for number, label in zip(numbers[:2_000], splits.query.labels[:, 0], strict=True)
    )


def test_38_annotations(root: Path) -> None:
    splits = MIRFlickr(root=root, protocol="38-annotations").splits
    assert {name: len(images) for name, images in splits.by_name().items()} == {
        "query": 1_000,
        "train": 4_000,
        "database": 20_000,
    }
    assert splits.database.labels.shape[1] == 38
    assert not set(splits.train.names) & set(splits.database.names)
    labels = splits.database.labels  # alphabetical: animals, baby, baby_r1, bird, bird_r1, ...
    assert (labels[:, 1] | ~labels[:, 2]).all()
    assert labels[:, 2].sum() < labels[:, 1].sum()


def test_absent_and_malformed_annotations(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="expected 24 annotation files, found 0; let the machine download"
    ):
        MIRFlickr(root=tmp_path).load_splits()
    folder = tmp_path / "mirflickr25k_annotations_v080"
    folder.mkdir()
    for concept in CONCEPTS:
        (folder / f"{concept}.txt").write_text("1\n2\n")
    with pytest.raises(InputError, match=r"tags1.txt: cannot be read .* needs the tags"):
        MIRFlickr(root=tmp_path).load_splits()
    for bad in ("0", "25001", "x", "1 2", "-3"):
        (folder / "sky.txt").write_text(f"1\n{bad}\n")
        with pytest.raises(
            InputError, match=r"sky.txt:2: expected an image number from 1 to 25000"
        ):
            MIRFlickr(root=tmp_path).load_splits()


def test_download_unpacks_what_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_fetch(url: str, target: Path, md5: str | None = None) -> None:
        assert url.startswith("https://press.liacs.nl/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            # The archive of the images has one folder at its top, that of the annotations has none.
            archive.writestr("sky.txt" if "annotations" in url else "mirflickr/im1.jpg", "1\n")
            archive.writestr("sea.txt" if "annotations" in url else "mirflickr/im2.jpg", "1\n")

    monkeypatch.setattr("udmsh_pl.data.mirflickr.fetch", fake_fetch)
    MIRFlickr(root=tmp_path).download()
    assert (tmp_path / "mirflickr/im1.jpg").is_file()
    assert (tmp_path / "mirflickr25k_annotations_v080/sky.txt").is_file()


def test_lists_need_no_download(tmp_path: Path) -> None:
    MIRFlickr(root=tmp_path / "images", lists=tmp_path).download()
    assert not (tmp_path / "images").exists()


def test_the_command_line_trains_and_scores_what_is_there(
    root: Path, tmp_path: Path, train_and_score, place_images
) -> None:
    few = tmp_path / "few"
    (few / "mirflickr").mkdir(parents=True)
    (few / "mirflickr/meta").symlink_to(root / "mirflickr/meta")
    (few / "mirflickr25k_annotations_v080").symlink_to(root / "mirflickr25k_annotations_v080")
    place_images(few / "mirflickr", (f"im{number}.jpg" for number in range(1, 301)))
    metrics = train_and_score("MIRFlickr", {"root": str(few), "allow_missing": True})
    assert 0.1 < metrics["test/map@all"] < 0.6
