"""Rows of another kind through the command line: product quantisers, other rankings by codes, and
a teacher with labels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from udmsh_pl.reports.table_rows import read_results

from .conftest import Run, write_list

PLUS = "udmsh-plus (labels)"


def plan(colours: Path, folder: Path, larger: bool = True, **reproduce: Any) -> Path:
    config = yaml.safe_load((colours / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = 2
    own = {"hidden": 64, "dims": 16, "warmup_steps": 2, "labelled": 1.0}
    labelled = {"class_path": "udmsh_pl.models.UDMSHPlusLabelled", "init_args": own}
    methods = {PLUS: labelled, "itq": {"class_path": "udmsh_pl.baselines.ITQ"}}
    config["reproduce"] = {"bits": [8], "seeds": [0], "ks": [10, None], "methods": methods}
    config["reproduce"] |= reproduce
    if "udmsh" in reproduce.get("rankings", ()):
        turned = {"class_path": "udmsh_pl.models.UDMSH", "init_args": {"isometry": "rotation"}}
        methods["udmsh"] = turned
    config["data"]["init_args"]["views"] = 0
    if reproduce and larger:  # more images, for as many centroids
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


def test_other_rankings_by_codes_have_rows_of_their_own(
    colours: Path, udmsh: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plan(colours, tmp_path)
    assert udmsh("reproduce", config, "--out", "run", "--methods", PLUS) == 0
    plain = read_results(tmp_path / "run/results.csv")
    trained = (tmp_path / f"run/cells/{PLUS}-8-0/done.json").stat().st_mtime_ns
    config = plan(colours, tmp_path, rankings={PLUS: ["asymmetric", "two-stages"]}, larger=False)
    for _ in range(2):  # the cell is finished: its codes are ranked by, nothing is trained again
        assert udmsh("reproduce", config, "--out", "run", "--methods", PLUS) == 0
        rows = read_results(tmp_path / "run/results.csv")
        assert [row for row in rows if row.method in ("cosine (real-valued)", PLUS)] == plain
        others = {(row.method, row.k): row for row in rows if row not in plain}
        names = {f"{PLUS} (asymmetric)", f"{PLUS} (two stages)"}
        assert others.keys() == {(name, k) for name in names for k in ("10", "all")}
        assert {row.ties for row in others.values()} == {"none"}
        assert all(0.25 < row.value <= 1 for row in others.values())
    assert (tmp_path / f"run/cells/{PLUS}-8-0/done.json").stat().st_mtime_ns == trained
    table = (tmp_path / "run/table.md").read_text()
    assert "| udmsh-plus (labels) (two stages) |" in table
    assert "512 bytes" in table
    (tmp_path / f"run/cells/{PLUS} (asymmetric)-8-0/done.json").unlink()
    (tmp_path / f"run/cells/{PLUS}-8-0/last.ckpt").unlink()
    assert udmsh("reproduce", config, "--out", "run", "--methods", PLUS) == 2
    assert "last.ckpt is missing, and other rankings need it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"quantisers": ["rq"]}, "reproduce.quantisers: 'rq' is not known; known are pq, opq"),
        ({"rankings": {PLUS: ["symmetric"]}}, "reproduce.rankings: 'symmetric' is not known"),
        ({"rankings": {"sdc": ["asymmetric"]}}, "reproduce.rankings: 'sdc' is not known"),
        ({"rankings": {"itq": ["asymmetric"]}}, "need a learned method with a frozen backbone"),
        ({"rankings": {"udmsh": ["two-stages"]}}, "a fused feature of its own"),
        ({"rankings": {"udmsh": ["asymmetric"]}}, "not signs of the encoder's output"),
    ],
)
def test_a_row_that_cannot_be(
    given: dict[str, Any], why: str, colours: Path, udmsh: Run, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert udmsh("reproduce", plan(colours, tmp_path, **given), "--out", "run") != 0
    assert why in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
