"""Rows of another kind through the command line: product quantisers, and a teacher with labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from udmsh_pl.reports.table_rows import read_results

from .conftest import Run, write_list


def plan(colours: Path, folder: Path, **reproduce: Any) -> Path:
    config = yaml.safe_load((colours / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = 2
    own = {"hidden": 64, "dims": 16, "warmup_steps": 2, "labelled": 1.0}
    labelled = {"class_path": "udmsh_pl.models.UDMSHPlusLabelled", "init_args": own}
    methods = {"udmsh-plus (labels)": labelled, "itq": {"class_path": "udmsh_pl.baselines.ITQ"}}
    config["reproduce"] = {"bits": [8], "seeds": [0], "ks": [10, None], "methods": methods}
    config["reproduce"] |= reproduce
    config["data"]["init_args"]["views"] = 0
    if reproduce:
        generator = np.random.default_rng(5)
        lists = {
            name: str(write_list(folder, name, count, generator))
            for name, count in (("query", 9), ("database", 270))
        }
        config["data"]["init_args"] |= lists | {"root": str(folder), "cache_dir": str(folder / "c")}
    (folder / "plan.yaml").write_text(yaml.safe_dump(config))
    return folder / "plan.yaml"


def test_labels_stand_below_and_quantisers_say_what_they_are(
    colours: Path, udmsh: Run, tmp_path: Path
) -> None:
    config = plan(colours, tmp_path, quantisers=["pq", "opq"])
    assert udmsh("reproduce", config, "--out", "run") == 0
    rows = read_results(tmp_path / "run/results.csv")
    kinds = {(row.method, row.bits, row.ties) for row in rows if "asymmetric" in row.method}
    assert kinds == {("pq (asymmetric)", 8, "none"), ("opq (asymmetric)", 8, "none")}
    table = (tmp_path / "run/table.md").read_text().splitlines()
    methods = [line.split(" | ")[0].strip("| ") for line in table if line.startswith("| ")]
    assert "udmsh-plus (labels)" in methods, methods
    first = methods[: methods.index("udmsh-plus (labels)") + 1]
    assert first[2:] == [
        "cosine (real-valued)", "pq (asymmetric)", "opq (asymmetric)", "itq", "udmsh-plus (labels)"
    ]  # fmt: skip
    before = (tmp_path / "run/results.csv").read_text()
    assert udmsh("reproduce", config, "--out", "run") == 0  # finished: nothing is run again
    assert (tmp_path / "run/results.csv").read_text() == before


def test_an_unknown_quantiser(
    colours: Path, udmsh: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert udmsh("reproduce", plan(colours, tmp_path, quantisers=["rq"]), "--out", "run") != 0
    assert "reproduce.quantisers" in capsys.readouterr().err
