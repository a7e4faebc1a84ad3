"""CIFAR-10 in its official format: pickled batches of uint8 [N, 3072]."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from udmsh_pl.data.cifar10 import CIFAR10, PROTOCOLS
from udmsh_pl.errors import InputError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        labels = [row % 10 for row in range(1_300)]
        batch = {
            "data": generator.integers(0, 256, (1_300, 3072), dtype=np.uint8),
            "labels": labels,
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    return root


@pytest.fixture
def _any_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature cannot have the MD5 of the official files."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)


@pytest.mark.usefixtures("_any_md5")
def test_official_split(root: Path) -> None:
    splits = CIFAR10(root=root).splits
    assert splits.protocol == PROTOCOLS["10k-50k"]
    assert (len(splits.query), len(splits.database)) == (1_300, 6_500)
    assert splits.train is splits.database
    assert splits.query.names[7] == "test/00007"
    assert splits.query.labels[7].argmax() == 7
    batch = pickle.loads((root / "cifar-10-batches-py/test_batch").read_bytes())
    assert np.array_equal(
        np.asarray(splits.query.load(7)), batch["data"][7].reshape(3, 32, 32).transpose(1, 2, 0)
    )


@pytest.mark.usefixtures("_any_md5")
def test_500_a_class_of_the_official_train_images(root: Path) -> None:
    splits = CIFAR10(root=root, protocol="10k-50k-5k").splits
    assert splits.train.labels.sum(axis=0).tolist() == [500] * 10
    assert set(splits.train.names) < set(splits.database.names)
    assert len(splits.database) == 6_500


@pytest.mark.usefixtures("_any_md5")
def test_100_a_class_of_all(root: Path) -> None:
    splits = CIFAR10(root=root, protocol="1k-59k").splits
    assert splits.query.labels.sum(axis=0).tolist() == [100] * 10
    assert splits.train.labels.sum(axis=0).tolist() == [500] * 10
    assert set(splits.train.names) < set(splits.database.names)
    assert len(splits.query) + len(splits.database) == 7_800
    assert splits.fingerprint() == CIFAR10(root=root, protocol="1k-59k").splits.fingerprint()
    assert (
        splits.fingerprint()
        != CIFAR10(root=root, protocol="1k-59k", split_seed=1).splits.fingerprint()
    )


def test_absent_files_and_unknown_protocol(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cifar-10-batches-py: .* not there or not the official ones"
    ):
        CIFAR10(root=tmp_path).load_splits()
    with pytest.raises(InputError, match="not the official ones"):
        CIFAR10(root=root).load_splits()  # the miniature without the fixture: wrong MD5
    with pytest.raises(InputError, match="10k-50k, 10k-50k-5k, 1k-59k"):
        CIFAR10(root=tmp_path, protocol="50k").load_splits()


def test_protocol_counts_add_up() -> None:
    assert PROTOCOLS["1k-59k"].queries + PROTOCOLS["1k-59k"].database == 60_000
    assert PROTOCOLS["10k-50k"].queries + PROTOCOLS["10k-50k"].database == 60_000
