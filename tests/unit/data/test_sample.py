"""The embedded sample."""

from importlib.resources import files

import numpy as np

from udmsh_pl.data.fashion_mnist import CLASSES, FashionSample, load_sample


def test_counts_and_fingerprint() -> None:
    splits = load_sample()
    assert splits.train is splits.database
    assert splits.query.labels.sum(axis=0).tolist() == [50] * len(CLASSES)
    assert splits.database.labels.sum(axis=0).tolist() == [500] * len(CLASSES)
    assert (splits.query.labels.sum(axis=1) == 1).all()
    assert (
        splits.fingerprint() == "536bb13040999ec4f46d665d17fd496017d35ca5688c4d5be1e168cfb94258c5"
    )
    assert (splits.protocol.queries, splits.protocol.database) == (
        len(splits.query),
        len(splits.database),
    )


def test_rows_are_shuffled_and_images_are_images() -> None:
    database = load_sample().database
    classes = database.labels.argmax(axis=1)
    assert np.count_nonzero(np.diff(classes)) > 4_000  # sorted by class, it would be 9
    assert database.pixels.shape == (5_000, 28, 28)
    assert database.load(0).size == (28, 28)
    assert np.asarray(database.load(0)).std() > 10


def test_small_and_licensed() -> None:
    folder = files("udmsh_pl.data") / "files"
    assert len((folder / "fashion_sample.npz").read_bytes()) < 4_000_000
    assert "Zalando SE" in (folder / "LICENSE.fashion-mnist").read_text(encoding="utf-8")


def test_module() -> None:
    assert FashionSample().splits.fingerprint() == load_sample().fingerprint()
