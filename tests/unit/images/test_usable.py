"""Pictures that cannot be decoded: found once, left out with a list, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import UnreadablePicture
from udmsh_pl.images.image_list import ImageList, Splits
from udmsh_pl.images.protocol import Protocol
from udmsh_pl.images.usable import (
    broken_line,
    drop_broken,
    drop_missing,
    find_broken,
    load_or_blank,
    read_broken,
    write_broken,
)

FACTS = Protocol("toy", "small", None, None, None, 2, None, "none", "", "")
NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=bool)


@pytest.fixture
def splits(tmp_path: Path, place_images) -> Splits:
    """b and the query r are broken, c is absent."""
    place_images(tmp_path, ["a.jpg", "d.jpg", "q.jpg"])
    for name in ("b.jpg", "r.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8 broken")
    query = ImageList(["q.jpg", "r.jpg"], LABELS[:2], tmp_path)
    database = ImageList(NAMES, LABELS, tmp_path)
    return Splits(FACTS, query, database, database, skipped={"film.mov": "a video"})


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_and_absent_pictures_are_found_with_the_reason(splits: Splits, workers: int) -> None:
    broken = find_broken(splits.database, workers=workers)
    assert list(broken) == ["b.jpg", "c.jpg"]
    assert broken["c.jpg"] == "no such image"
    assert list(find_broken(*splits.by_name().values(), workers=workers)) == [
        "r.jpg",
        "b.jpg",
        "c.jpg",
    ]


def test_each_picture_is_decoded_once(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    load = ImageList.load

    def counted(images: ImageList, row: int) -> Image.Image:
        decoded.append(images.names[row])
        return load(images, row)

    monkeypatch.setattr(ImageList, "load", counted)
    find_broken(*splits.by_name().values())
    assert sorted(decoded) == [*NAMES, "q.jpg", "r.jpg"]


def test_they_are_left_out_counted_and_told(splits: Splits) -> None:
    broken = find_broken(*splits.by_name().values())
    kept = drop_broken(splits, broken)
    assert kept.train is kept.database
    assert list(kept.database.names) == ["a.jpg", "d.jpg"]
    assert kept.database.labels.tolist() == LABELS[[0, 3]].tolist()
    assert list(kept.query.names) == ["q.jpg"]
    assert kept.missing == {"query": 1, "train": 2, "database": 2}
    assert set(kept.skipped) == {"film.mov", "r.jpg", "b.jpg", "c.jpg"}
    assert kept.fingerprint() != splits.fingerprint()
    assert drop_broken(splits, {}) is splits
    assert drop_broken(kept, broken) is kept


def test_strict_refuses_and_an_empty_split_is_an_error(splits: Splits) -> None:
    broken = find_broken(*splits.by_name().values())
    with pytest.raises(InputError, match=r"toy small: 3 pictures cannot be read: r.jpg \(.*strict"):
        drop_broken(splits, broken, strict=True)
    with pytest.raises(InputError, match="no query picture can be read"):
        drop_broken(splits, broken | {"q.jpg": "cut"})
    assert broken_line({"a": "x"}) == "1 picture cannot be read: a (x)"


def test_who_decodes_anyway_gets_a_blank_and_the_reason(splits: Splits) -> None:
    picture, reason = load_or_blank(splits.database, 0)
    assert (picture.size, reason) == ((8, 8), "")
    assert picture == splits.database.load(0)
    picture, reason = load_or_blank(splits.database, 1)
    assert not np.asarray(picture).any()
    assert reason
    with pytest.raises(UnreadablePicture, match=r"c\.jpg: no such image"):
        load_or_blank(splits.database, 2)  # it may come back


def test_the_list_beside_the_cache(tmp_path: Path) -> None:
    path, broken = tmp_path / "cache" / "broken.json", {"ü\udcff\n.jpg": "cut", "b.jpg": "empty"}
    assert read_broken(path) == {}
    write_broken(path, broken)
    assert read_broken(path) == broken
    for content in ("{", "[]", '{"a": 1}', "[" * 100_000, "\xff"):
        path.write_text(content)
        with pytest.raises(InputError, match="damaged; delete it"):
            read_broken(path)


def test_a_worker_error_is_one_line(splits: Splits) -> None:
    try:
        splits.database.load(1)
    except UnreadablePicture as error:
        told = str(error)
    traceback = f"Caught UnreadablePicture in worker 0.\n  File x\nUnreadablePicture: {told}\n"
    assert str(UnreadablePicture(traceback)) == told


def test_names_that_are_spelled_otherwise_on_the_disk_say_so(tmp_path: Path, place_images) -> None:
    place_images(tmp_path, ["a.jpg", "e\u0301.jpg"])
    for name, cause in (("A.jpg", "other letter case"), ("\u00e9.jpg", "another Unicode form")):
        images = ImageList(["a.jpg", name], LABELS[:2], tmp_path)
        with pytest.raises(InputError, match=rf"1 of 2 .* images are missing, .*{cause}"):
            drop_missing(Splits(FACTS, None, images, images), allow_missing=True)
