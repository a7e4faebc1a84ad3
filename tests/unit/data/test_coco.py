"""COCO's annotation JSON in miniature: images, polygons, categories with gaps in their ids."""

import json
from pathlib import Path

import numpy as np
import pytest

from udmsh_pl.data.coco import COCO, read_annotations
from udmsh_pl.errors import InputError

IDS = [
    number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
]  # COCO's 80


def instances(folder: str, count: int, start: int) -> dict:
    generator = np.random.default_rng(start)
    prefix = f"COCO_{folder}_" if "2014" in folder else ""
    pictures, annotations = [], []
    for number in range(start, start + count):
        pictures.append(
            {
                "license": 3,
                "file_name": f"{prefix}{number:012d}.jpg",
                "id": number,
                "height": 8,
                "width": 8,
            }
        )
        for category in generator.choice(
            IDS, generator.integers(0, 4)
        ).tolist():  # some have no object
            annotations.append(
                {
                    "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
                    "area": 7.5,
                    "iscrowd": 0,
                    "image_id": number,
                    "bbox": [1.0, 2.0, 3.0, 4.0],
                    "category_id": category,
                    "id": len(annotations),
                }
            )
    categories = [
        {"supercategory": "thing", "id": number, "name": f"category {number}"}
        for number in reversed(IDS)
    ]
    return {
        "info": {},
        "licenses": [],
        "images": pictures,
        "annotations": annotations,
        "categories": categories,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, place_images) -> Path:
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for year in (2014, 2017):
        for half, count, start in (("train", 300, 1), ("val", 100, 5_000)):
            content = instances(f"{half}{year}", count, start)
            (root / f"annotations/instances_{half}{year}.json").write_text(json.dumps(content))
            place_images(
                root / f"{half}{year}", (picture["file_name"] for picture in content["images"])
            )
    return root


@pytest.mark.parametrize(
    ("year", "name"), [("2014", "train2014/COCO_train2014_"), ("2017", "train2017/0000")]
)
def test_official_annotations(root: Path, tmp_path: Path, year: str, name: str) -> None:
    module = COCO(root=root, protocol=year, queries=20, train=50, cache_dir=tmp_path)
    splits = module.splits
    assert (len(splits.query), len(splits.train)) == (20, 50)
    assert splits.train.names[0].startswith(name)
    assert not splits.query.upright  # published numbers know no orientation
    assert set(splits.train.names) < set(splits.database.names)
    assert splits.database.labels.any(axis=1).all()
    content = json.loads((root / f"annotations/instances_train{year}.json").read_text())
    assert len(splits.query) + len(splits.database) < 400  # those without an object are left out
    number = int(splits.train.names[0][-16:-4])
    found = {one["category_id"] for one in content["annotations"] if one["image_id"] == number}
    assert {IDS[column] for column in np.flatnonzero(splits.train.labels[0])} == found
    again = COCO(
        root=root, protocol=year, queries=20, train=50, cache_dir=tmp_path
    ).splits  # from the cached lists
    assert again.fingerprint() == splits.fingerprint()
    assert len(list(tmp_path.glob("coco-*.txt"))) == 2


def test_a_changed_annotation_file_is_read_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data/annotations").mkdir(parents=True)
    for half in ("train", "val"):
        (tmp_path / f"data/{half}2014").symlink_to(root / f"{half}2014")
    copy = tmp_path / "data/annotations/instances_train2014.json"
    copy.write_bytes((root / "annotations/instances_train2014.json").read_bytes())
    (copy.parent / "instances_val2014.json").symlink_to(root / "annotations/instances_val2014.json")
    arguments = {
        "root": tmp_path / "data",
        "queries": 5,
        "train": 5,
        "cache_dir": tmp_path / "cache",
    }
    before = COCO(**arguments).splits.fingerprint()
    content = json.loads(copy.read_text())
    content["annotations"] = content["annotations"][:100]
    copy.write_text(json.dumps(content))
    assert COCO(**arguments).splits.fingerprint() != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not an instances file of COCO"),
        ('{"images": [], "annotations": []}', "not an instances file of COCO .*categories"),
        (
            '{"images": [], "annotations": [{"image_id": 1, "category_id": 2}], '
            '"categories": [{"id": 2}]}',
            "not an instances",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "no image has an annotation"),
    ],
)
def test_malformed_annotations(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "instances_train2014.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_annotations(path, "train2014")


def test_absent_annotations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"instances_train2014.json: not there; unpack"):
        COCO(root=tmp_path, cache_dir=tmp_path).load_splits()


def test_the_command_line_trains_and_scores_it(root: Path, train_and_score) -> None:
    metrics = train_and_score("COCO", {"root": str(root), "queries": 40, "train": 100})
    assert 0 < metrics["test/map@all"] < 0.3
