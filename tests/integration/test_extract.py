"""``udmsh data extract``: several machines fill one cache, and training finds it filled."""

import json
from pathlib import Path

import pytest

from .conftest import Run


def sums(cache: Path) -> dict[str, object]:
    """Arrays and their checksums, by store."""
    return {
        path.parent.name: json.loads(path.read_text())["arrays"]
        for path in cache.glob("*/meta.json")
    }


def test_two_machines_fill_one_cache(
    colours: Path, udmsh: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extract = ("data", "extract", colours / "config.yaml", "--data.cache_dir")
    assert udmsh(*extract, tmp_path / "one") == 0
    assert udmsh(*extract, tmp_path / "two", "--shard", "2/2") == 0
    told = capfd.readouterr().out
    assert "all features are in" in told
    assert "other shards still lack 2 views of train" in told
    assert udmsh(*extract, tmp_path / "two", "--shard", "1/2") == 0
    assert len(sums(tmp_path / "one")) == 3  # queries, the train list (the database too), views
    assert sums(tmp_path / "two") == sums(tmp_path / "one")
    fit = ("fit", "--config", colours / "config.yaml", "--data.cache_dir", tmp_path / "two")
    capfd.readouterr()
    assert udmsh(*fit, "--trainer.max_epochs", 1) == 0
    assert "img/s" not in capfd.readouterr().err  # nothing is extracted again
    assert udmsh(*extract, tmp_path / "two", "--shard", "3/2") == 2
