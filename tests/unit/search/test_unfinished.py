"""A build that was killed goes on where it stopped, and ends as if it had not been."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.serving import BITS, DIMS, SIDE, quick

from udmsh_pl.search import HashEncoder, ImageIndex
from udmsh_pl.search.build import SIZE, UNFINISHED, Unfinished, build_index
from udmsh_pl.search.encoder import Encoded
from udmsh_pl.search.spec import EncoderSpec, write_spec

COUNT = SIZE + 100


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number:04d}.bmp")
    spec = EncoderSpec(
        "SignEncoder", {}, "none", "none", False, SIDE, (0, 0, 0), (1, 1, 1), 2, BITS, DIMS, "quick"
    )
    (tmp_path / "encoder").mkdir()
    write_spec(tmp_path / "encoder", spec)
    return tmp_path


def test_a_build_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    stop = SIZE + 64

    def counting(pixels: NDArray[np.uint8]) -> Encoded:
        nonlocal seen
        seen += len(pixels)
        if seen > stop:
            raise KeyboardInterrupt
        return quick(pixels)

    monkeypatch.setattr("udmsh_pl.search.encoder.runner_of", lambda *_: counting)
    encoder = HashEncoder(place / "encoder")
    with pytest.raises(KeyboardInterrupt):
        build_index(place / "index", place / "pictures", encoder)
    assert not (place / "index/index.json").exists()
    generator = np.random.default_rng(1)
    changed = generator.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(changed).save(place / "pictures/0007.bmp")
    (place / "pictures/0009.bmp").unlink()
    seen, stop = 0, 10 * COUNT
    report = build_index(place / "index", place / "pictures", encoder)
    assert seen == COUNT - SIZE + 1  # those behind the safe point, and the changed one
    assert report.added == COUNT - 1
    assert f"{SIZE - 2:,} pictures were finished by a run" in report.lines[0]
    assert not (place / "index" / UNFINISHED).exists()
    build_index(place / "other", place / "pictures", encoder)
    one, two = ImageIndex.open(place / "index"), ImageIndex.open(place / "other")
    assert list(one.rows.names) == list(two.rows.names)
    np.testing.assert_array_equal(one.rows.codes, two.rows.codes)
    np.testing.assert_array_equal(one.rows.files, two.rows.files)
    assert [one.thumbnail(row) for row in (0, 7, 1050)] == [
        two.thumbnail(row) for row in (0, 7, 1050)
    ]


def test_damage_to_what_is_finished_costs_work_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udmsh_pl.search.encoder.runner_of", lambda *_: quick)
    build_index(place / "index", place / "pictures", HashEncoder(place / "encoder"))
    rows = ImageIndex.open(place / "index").rows
    done = Unfinished(place / "work", BITS, DIMS)
    done.add(rows)
    names = list(rows.names)[5:2:-1]
    assert list(Unfinished(place / "work", BITS, DIMS).rows([*names, "none"]).names) == names
    (facts,) = (place / "work").glob("*.json")
    facts.write_text("{")
    assert len(Unfinished(place / "work", BITS, DIMS).rows(names)) == 0
