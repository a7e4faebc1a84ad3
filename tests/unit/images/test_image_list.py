"""ImageList, Splits and ImageDataset."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageDataset, ImageList, Splits, one_hot
from udmsh_pl.images.protocol import Protocol, named, resized
from udmsh_pl.images.transforms import eval_transform

FACTS = Protocol("toy", "two", None, None, None, 2, None, "none", "", "")


def images(names: list[str], **more: object) -> ImageList:
    return ImageList(names, np.eye(2, dtype=bool)[np.arange(len(names)) % 2], **more)


def test_fingerprint_is_the_sha256_of_the_sorted_lines() -> None:
    expected = hashlib.sha256(b"a.jpg 0 1\nb.jpg 1 0\n").hexdigest()
    assert images(["b.jpg", "a.jpg"]).fingerprint() == expected
    assert images(["b.jpg", "a.jpg"]).select([1, 0]).fingerprint() == expected
    assert images(["a.jpg", "b.jpg"]).fingerprint() != expected  # other labels


def test_fingerprint_of_splits_knows_roles_and_missing_counts() -> None:
    query, database = images(["q"]), images(["a", "b"])
    plain = Splits(FACTS, query, database, database)
    assert (
        plain.fingerprint() == Splits(FACTS, query, database, database, {"query": 0}).fingerprint()
    )
    assert (
        plain.fingerprint() != Splits(FACTS, query, database, database, {"query": 1}).fingerprint()
    )
    assert plain.fingerprint() != Splits(FACTS, None, database, database).fingerprint()
    assert plain.fingerprint() != Splits(FACTS, database, query, query).fingerprint()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "LA"])
@pytest.mark.filterwarnings("error")
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (5, 4), (200, 10, 10)).convert(mode).save(tmp_path / "x.tiff")
    loaded = images(["x.tiff"], root=tmp_path).load(0)
    assert (loaded.mode, loaded.size) == ("RGB", (5, 4))


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "webp")]
)
def test_what_is_transparent_shows_white(tmp_path: Path, mode: str, ending: str) -> None:
    drawn = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (0, 0, 2, 4))
    drawn.convert(mode).save(
        tmp_path / f"x.{ending}", **({"lossless": True} if ending == "webp" else {})
    )
    loaded = np.asarray(images([f"x.{ending}"], root=tmp_path).load(0))
    assert (loaded[:, :2] == 0).all()
    assert (loaded[:, 2:] == 255).all()


def test_pixels_in_memory_grey_and_colour() -> None:
    grey = np.arange(2 * 9, dtype=np.uint8).reshape(2, 3, 3)
    colour = np.arange(2 * 27, dtype=np.uint8).reshape(2, 3, 3, 3)
    loaded = images(["a", "b"], pixels=grey).select([1]).load(0)
    assert np.array_equal(np.asarray(loaded), np.repeat(grey[1][..., None], 3, axis=2))
    assert np.array_equal(np.asarray(images(["a", "b"], pixels=colour).load(1)), colour[1])


def test_missing_and_broken_images_name_file_list_line_and_mend(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("cut.jpg 1 0\ngone.jpg 0 1\n")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    both = images(["cut.jpg", "gone.jpg"], root=tmp_path, source=str(tmp_path / "list.txt"))
    with pytest.raises(
        InputError, match=r"gone.jpg: no such image, named by .*list.txt:2; set --data.root"
    ):
        both.load(1)
    with pytest.raises(
        InputError, match=r"cut.jpg: not a readable image .*list.txt:1; fetch that file again"
    ):
        both.load(0)
    (tmp_path / "cut.jpg").unlink()
    (tmp_path / "cut.jpg").mkdir()
    with pytest.raises(InputError, match="not a readable image"):
        both.load(0)


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    for load in (
        images(["a.jpg", "b.jpg"], root=tmp_path).load,
        images(["a.jpg", "b.jpg"], root=tmp_path).load,
    ):
        with pytest.raises(InputError, match="truncated"):
            load(0)
        with pytest.raises(InputError, match=r"b.jpg: no such image"):
            load(1)


@pytest.mark.parametrize(
    ("labels", "pixels"),
    [
        (np.zeros((1, 2), bool), None),
        (np.zeros((2, 2), int), None),
        (np.zeros(2, bool), None),
        (np.zeros((2, 2), bool), np.zeros((3, 4, 4), np.uint8)),
        (np.zeros((2, 2), bool), np.zeros((2, 4, 4), np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(labels: np.ndarray, pixels: np.ndarray | None) -> None:
    with pytest.raises(InputError, match="expected a"):
        ImageList(["a", "b"], labels, pixels=pixels)


def test_overlap_is_refused_with_the_first_paths() -> None:
    train, database = images(["t1", "t2"]), images(["d1", "d2", "d3", "d4", "d5", "d6"])
    with pytest.raises(
        InputError,
        match=r"4 of 5 query images are also in the database split \(d6, d1, d2, \.\.\.\)",
    ):
        Splits(FACTS, images(["d6", "new", "d1", "d2", "d3"]), train, database)
    with pytest.raises(InputError, match=r"1 of 1 query images are also in the train split \(t2\)"):
        Splits(FACTS, images(["t2"]), train, database)


@pytest.mark.parametrize("spelled", ["./t1", ".//t1", "a/../t1", "t1/"])
def test_overlap_is_found_however_the_names_are_spelled(spelled: str) -> None:
    with pytest.raises(InputError, match="1 of 1 query images are also in the train split"):
        Splits(FACTS, images([spelled]), images(["t1"]), images(["d1"]))
    with pytest.raises(InputError, match="names t1 twice"):
        Splits(FACTS, None, images(["d1"]), images([spelled, "t1"]))


def test_other_broken_splits_are_refused() -> None:
    query, database = images(["q"]), images(["a", "b"])
    three = ImageList(["t"], np.zeros((1, 3), bool))
    with pytest.raises(
        InputError, match=r"label counts differ between splits \(query 2, train 3, database 2\)"
    ):
        Splits(FACTS, query, three, database)
    with pytest.raises(InputError, match="the database split names a twice"):
        Splits(FACTS, query, database, images(["a", "b", "a"]))
    with pytest.raises(InputError, match="the query split is empty"):
        Splits(FACTS, images([]), database, database)


def test_unlabelled_images_without_queries_are_fine() -> None:
    bare = ImageList(["a", "b"], np.zeros((2, 0), bool))
    splits = Splits(FACTS, None, bare, bare)
    assert list(splits.by_name()) == ["train", "database"]
    assert bare.lines() == [b"a", b"b"]


def test_dataset_collates_to_the_contract() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    dataset = ImageDataset(
        images(list("abcd"), pixels=pixels), eval_transform(16, (0.5,) * 3, (0.5,) * 3)
    )
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["image"].dtype == torch.float32
    assert batch["labels"].tolist() == [[True, False], [False, True], [True, False]]
    assert batch["index"].dtype == torch.int64
    assert len(pickle.loads(pickle.dumps(dataset)).images) == 4  # worker processes get a copy


def test_one_hot() -> None:
    assert one_hot(np.array([2, 0]), 3).tolist() == [[False, False, True], [True, False, False]]


def test_protocols_by_name_and_with_other_numbers() -> None:
    assert named({"two": FACTS}, "two") is FACTS
    with pytest.raises(
        InputError, match=r"no protocol 'tow' here; give --data.protocol one of two"
    ):
        named({"two": FACTS}, "tow")
    assert resized(FACTS, None, None) is FACTS
    other = resized(FACTS, 5, 7)
    assert (other.name, other.queries, other.train, other.database) == ("two-q5-t7", 5, 7, None)
    with pytest.raises(InputError, match=r"--data.train is 0"):
        resized(FACTS, None, 0)
