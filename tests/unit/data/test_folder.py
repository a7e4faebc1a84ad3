"""The user's own pictures."""

import os
from pathlib import Path

import pytest

from udmsh_pl.data import ImageFolders
from udmsh_pl.errors import InputError
from udmsh_pl.images.folder import load_tree
from udmsh_pl.images.walk import skipped_line, walk


def test_class_folders_with_given_splits(tmp_path: Path, place_images) -> None:
    place_images(
        tmp_path,
        ["query/cat/1.jpg", "query/dog/2.PNG", "database/cat/3.jpg", "database/cow/deep/4.jpg"],
    )
    splits = ImageFolders(root=tmp_path).splits
    assert list(splits.query.names) == ["query/cat/1.jpg", "query/dog/2.PNG"]
    assert splits.query.labels.tolist() == [
        [True, False, False],
        [False, False, True],
    ]  # cat, cow, dog
    assert splits.database.labels.tolist() == [[True, False, False], [False, True, False]]
    assert splits.train is splits.database
    place_images(tmp_path, ["train/cow/5.jpg"])
    assert list(ImageFolders(root=tmp_path).splits.train.names) == ["train/cow/5.jpg"]


def test_class_folders_with_drawn_queries(tmp_path: Path, place_images) -> None:
    place_images(
        tmp_path, [f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(10)]
    )
    splits = ImageFolders(root=tmp_path, query_share=0.2).splits
    assert (len(splits.query), len(splits.database)) == (4, 16)
    assert splits.protocol.name == "folders-0.2-seed0"
    assert splits.fingerprint() == ImageFolders(root=tmp_path, query_share=0.2).splits.fingerprint()
    with pytest.raises(InputError, match=r"--data.query_share is 1"):
        ImageFolders(root=tmp_path, query_share=1.0).load_splits()


def test_bare_directory_is_for_training_and_indexing(tmp_path: Path, place_images) -> None:
    place_images(tmp_path, ["b.jpg", "a.webp", ".hidden.jpg", ".cache/c.jpg"])
    (tmp_path / "notes.txt").write_text("no image")
    splits = ImageFolders(root=tmp_path).splits
    assert splits.query is None
    assert list(splits.database.names) == ["a.webp", "b.jpg"]
    assert splits.database.labels.shape == (2, 0)
    assert list(walk(tmp_path).files) == ["a.webp", "b.jpg"]


def test_folders_that_cannot_be_read_as_classes(tmp_path: Path, place_images) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ImageFolders(root=tmp_path / "none").load_splits()
    with pytest.raises(InputError, match="no images here"):
        ImageFolders(root=tmp_path).load_splits()
    place_images(tmp_path, ["cat/1.jpg", "stray.jpg"])
    with pytest.raises(InputError, match=r"stray.jpg: expected in a folder named after its class"):
        ImageFolders(root=tmp_path).load_splits()


def test_albums_are_no_classes_unless_asked(tmp_path: Path, place_images) -> None:
    names = ["alps/1.jpg", "alps/winter/2.jpg", "rome/3.jpg", "stray.jpg"]
    place_images(tmp_path, names)
    splits = ImageFolders(root=tmp_path, labels="none").splits
    assert splits.query is None
    assert splits.train is splits.database
    assert list(splits.database.names) == names
    assert splits.database.labels.shape == (4, 0)
    assert splits.protocol.name == "unlabelled"
    with pytest.raises(InputError, match=r"take the folders as albums with --data.labels none"):
        load_tree(tmp_path, 0.1, 0)
    place_images(tmp_path, ["query/4.jpg", "database/5.jpg"])
    assert len(load_tree(tmp_path, 0.1, 0, labels="none").database) == 6


def test_what_is_left_out_is_told(tmp_path: Path, place_images) -> None:
    place_images(tmp_path, ["a/1.jpg", "a/2.MOV", "3.txt", ".thumbs/4.jpg", "a/.5.jpg", "EPS.eps"])
    (tmp_path / "a/6.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "album").symlink_to(tmp_path / "an album that is gone")
    os.mkfifo(tmp_path / "7.png")
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "noending").write_text("")
    found = walk(tmp_path)
    assert list(found.files) == ["a/1.jpg"]
    assert found.skipped == {
        ".thumbs": "hidden",
        "3.txt": "no picture ending (.txt)",
        "7.png": "no regular file",
        "EPS.eps": "no picture ending (.eps)",
        "a/.5.jpg": "hidden",
        "a/2.MOV": "a video",
        "a/6.jpg": "a broken link",
        "album": "a broken link",
        "b": "a link to a folder",
        "noending": "no ending",
    }
    assert load_tree(tmp_path, 0.5, 0, labels="none").skipped == found.skipped
    told = skipped_line({f"{n}.mov": "a video" for n in range(5)} | {"x": "hidden"})
    assert told == "6 left out: 5 a video (0.mov, 1.mov, 2.mov, ...); 1 hidden (x)"
    assert list(walk(tmp_path, "a").files) == ["a/1.jpg"]


def test_patterns_leave_out_files_and_folders(tmp_path: Path, place_images) -> None:
    names = [
        "cat/1.jpg",
        "cat/2.png",
        "dog/3.jpg",
        "dog/4.jpg",
        "Screenshots/5.jpg",
        "dog/old/6.jpg",
    ]
    place_images(tmp_path, names)
    splits = ImageFolders(root=tmp_path, exclude=["*.png", "Screenshots", "dog/old/*"]).splits
    assert sorted([*splits.query.names, *splits.database.names]) == [
        "cat/1.jpg", "dog/3.jpg", "dog/4.jpg",
    ]  # fmt: skip
    assert splits.skipped == {
        "Screenshots": "excluded by Screenshots",
        "cat/2.png": "excluded by *.png",
        "dog/old/6.jpg": "excluded by dog/old/*",
    }


def test_heic_is_left_out_with_its_extra_named(
    tmp_path: Path, place_images, monkeypatch: pytest.MonkeyPatch
) -> None:
    from udmsh_pl.images import decode

    monkeypatch.setattr(decode, "formats", lambda: ("JPEG",))
    place_images(tmp_path, ["a.heic"])
    with pytest.raises(InputError, match=r"no images here \(1 left out: 1 HEIF: needs the extra"):
        load_tree(tmp_path, 0.1, 0)


def test_a_class_for_each_image_does_not_fill_the_memory(
    tmp_path: Path, place_images, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_images(tmp_path, [f"{number}/1.jpg" for number in range(20)])
    monkeypatch.setenv("UDMSH_MAX_BYTES", "399")
    with pytest.raises(InputError, match=r"20 images x 20 labels .* --data.labels none"):
        load_tree(tmp_path, 0.1, 0)


def test_manifest_with_splits(tmp_path: Path, place_images) -> None:
    place_images(tmp_path, ["q.jpg", "a.jpg", "b.jpg"])
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,split,labels\nq.jpg,query,sea|sky\na.jpg,train|database,sky\nb.jpg,database,\n"
    )
    splits = ImageFolders(root=tmp_path, manifest=manifest).splits
    assert splits.query.labels.tolist() == [[True, True]]
    assert splits.database.labels.tolist() == [[False, True], [False, False]]
    assert list(splits.train.names) == ["a.jpg"]
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(InputError, match="1 of 2 database images are missing"):
        ImageFolders(root=tmp_path, manifest=manifest).load_splits()
    part = ImageFolders(root=tmp_path, manifest=manifest, allow_missing=True).load_splits()
    assert part.missing["database"] == 1


def test_manifest_without_splits_or_labels(tmp_path: Path, place_images) -> None:
    names = [f"{number}.jpg" for number in range(10)]
    place_images(tmp_path, names)
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,labels\n" + "".join(f"{name},x\n" for name in names))
    splits = ImageFolders(root=tmp_path, manifest=manifest).splits
    assert (len(splits.query), len(splits.database)) == (1, 9)
    manifest.write_text("path\n" + "".join(f"{name}\n" for name in names))
    splits = ImageFolders(root=tmp_path, manifest=manifest).splits
    assert splits.query is None
    assert list(splits.database.names) == names
