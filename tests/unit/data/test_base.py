"""The shared base of the data modules: cached features, views, the image file, shared fits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from udmsh_pl import baselines
from udmsh_pl.data import ListFiles
from udmsh_pl.data.batches import FeatureRows, train_loader
from udmsh_pl.errors import InputError
from udmsh_pl.features.store import Arrays
from udmsh_pl.models import UDMSH, UDMSHPlus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, count in (("query", 3), ("database", 9)):
        lines = []
        for row in range(count):
            pixels = generator.integers(0, 255, (50, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{row}.png")
            lines.append(f"{name}{row}.png {row % 2} {1 - row % 2}")
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def module(folder: Path, views: int = 0, fused: bool = False) -> ListFiles:
    return ListFiles(
        root=folder, query=folder / "query.txt", database=folder / "database.txt",
        cache_dir=folder / "cache", image_size=32, extractor="torch", batch_size=4, num_workers=0,
        views=views, fused=fused,
    )  # fmt: skip


def test_views_train_and_are_left_out_of_encoding(folder: Path) -> None:
    data = module(folder, views=3)
    data.prepare_data()
    data.setup()  # a second time, as Lightning does
    assert set(data.features("train")) == {"global_feature", "feature_map", "views", "view_maps"}
    assert set(data.features("database")) == {"global_feature", "feature_map"}
    batch = next(iter(data.train_dataloader()))
    assert batch["views"].shape == (4, 2, 1280)
    assert batch["view_maps"].shape == (4, 2, 1280, 2, 2)
    # this backbone's global feature is the mean of its map, so a view's map belongs to its feature
    torch.testing.assert_close(
        batch["view_maps"].mean((3, 4)), batch["views"], atol=2e-2, rtol=2e-2
    )
    [queries, database] = data.test_dataloader()
    assert (
        set(next(iter(queries)))
        == set(next(iter(database)))
        == {"global_feature", "feature_map", "labels", "index"}
    )


def test_a_train_batch_holds_what_the_method_learns_from(folder: Path) -> None:
    data = module(folder, views=2)
    data.prepare_data()
    whole = {"global_feature", "feature_map", "views", "view_maps", "labels", "index"}
    assert set(next(iter(data.train_dataloader()))) == whole
    tiny: dict[str, Any] = {"backbone": data.backbone, "weights": data.weights, "hidden": 8}
    for method, held in (
        (UDMSH(**tiny), {"global_feature", "feature_map"}),
        (UDMSH(branches="global", teacher="global", **tiny), {"global_feature"}),
        (baselines.CIBHash(**tiny), {"views"}),
        (baselines.WCH(**tiny), {"views", "view_maps"}),
        (UDMSHPlus(dims=8, **tiny), {"clean", "shown", "compared", "targets"}),
    ):
        loader = train_loader(data.train_features, method, 8)
        assert set(next(iter(loader))) == held | {"labels", "index"}


def test_train_features_are_known_by_their_stores(folder: Path) -> None:
    keys = []
    for views in (0, 0, 2):
        features = module(folder, views=views).train_features
        assert features.folder == folder / "cache" / "teachers"
        assert ("views" in features.arrays) is (views > 0)
        keys.append(features.key)
    assert keys[0] == keys[1] != keys[2]
    assert keys[2].startswith(keys[0])
    assert len(keys[2].split()) == 2


def test_fused_features_are_those_that_udmsh_plus_reads(folder: Path) -> None:
    plain, data = module(folder, views=2), module(folder, views=2, fused=True)
    data.prepare_data()
    data.setup()  # fused once, though opened twice
    plus = UDMSHPlus(backbone=plain.backbone, weights=plain.weights, hidden=8)
    teacher = plus.fit_teacher(plain.train_features)
    plus.load_teacher(teacher)
    own = torch.from_numpy(data.features("train")["global_feature"])
    assert own.shape == (9, 1280)
    assert not own[:, 512:].any()
    torch.testing.assert_close(own[:, :512], teacher["inputs"][:, 0])
    views = torch.from_numpy(data.features("train")["views"])
    torch.testing.assert_close(views[:, :, :512], teacher["inputs"][:, 1:])
    np.testing.assert_array_equal(data.features("database")["global_feature"], own.numpy())
    raw = plain.features("query")
    query = plus.encoder.fuse(*(torch.from_numpy(np.array(one)) for one in raw.values()))
    found = torch.from_numpy(data.features("query")["global_feature"])[:, :512]
    torch.testing.assert_close(found, query.half())
    for split, key in data.feature_keys().items():  # no teacher or result of one is the other's
        assert key == f"{plain.feature_keys()[split]} fused"


@pytest.mark.parametrize(
    ("method", "mend"),
    [
        (lambda: UDMSHPlus(fused=True), "leave --model.fused out"),
        (lambda: UDMSH(fused=True, finetune=True), "give --model.finetune false"),
    ],
)
def test_where_no_fused_feature_is_presented(method: Any, mend: str) -> None:
    with pytest.raises(InputError, match=mend):
        method()


class FromElsewhere(ListFiles):
    """Data whose features do not come from the store."""

    def features(self, split: str) -> Arrays:
        return {"global_feature": np.zeros((9, 3), dtype=np.float16)}


def test_features_from_elsewhere_have_no_folder_of_teachers(folder: Path) -> None:
    data = FromElsewhere(root=folder, database=folder / "database.txt")
    assert data.train_features.folder is None  # no name distinguishes such features from others


def test_every_process_has_the_whole_batch_where_the_backbone_is_frozen(folder: Path) -> None:
    found = []
    for rank in range(2):
        data = module(folder)
        data.batch_size = 4
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, lightning_module=None)
        found.append([batch["index"].tolist() for batch in data.train_dataloader()])
    assert found[0] == found[1]
    assert [len(batch) for batch in found[0]] == [4, 4]


@pytest.mark.parametrize("batch_size", [4, 6, 100])
def test_the_batch_size_is_that_of_all_processes_together(folder: Path, batch_size: int) -> None:
    found = {}
    for world in (1, 2, 3):
        parts = []
        for rank in range(world):
            data = module(folder)
            data.finetune = True
            data.batch_size = batch_size
            data.trainer = SimpleNamespace(
                world_size=world, global_rank=rank, lightning_module=None
            )
            parts.append([set(batch["index"].tolist()) for batch in data.train_dataloader()])
        assert len({len(part) for part in parts}) == 1  # no process waits for another
        found[world] = [set.union(*batches) for batches in zip(*parts, strict=True)]
    assert len(found[1]) == len(found[2]) == len(found[3]) == max(9 // batch_size, 1)
    for world, batches in found.items():
        if min(batch_size, 9) % world == 0:
            assert batches == found[1]


def test_two_views_of_a_batch_differ() -> None:
    views = np.arange(6, dtype=np.float16).reshape(1, 6, 1).repeat(50, 0)
    maps = views[..., None, None]
    rows = FeatureRows(np.zeros((50, 1), dtype=bool), {"views": views, "view_maps": maps})
    batch = rows.__getitems__(list(range(50)))
    assert (batch["views"][:, 0] != batch["views"][:, 1]).all()
    assert torch.equal(batch["views"], batch["view_maps"].flatten(2))
    assert len(batch["views"].unique()) == 6
