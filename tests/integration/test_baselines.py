"""Every comparison method as a line of a plan; the learned ones in two processes too."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from udmsh_pl import baselines
from udmsh_pl.baselines import ShallowHash
from udmsh_pl.reports.table_rows import read_results

from .conftest import Run

METHODS = [name for name in baselines.__all__ if name != "ShallowHash"]
LEARNED = [name for name in METHODS if not issubclass(getattr(baselines, name), ShallowHash)]


def config_of(colours: Path, tmp_path: Path) -> Path:
    config: dict[str, Any] = yaml.safe_load((colours / "config.yaml").read_text())
    config["data"]["init_args"]["views"] = 2
    config["reproduce"] = {"bits": [8], "seeds": [0], "ks": [None], "methods": {}}
    for name in METHODS:
        own = {"hidden": 32, "learning_rate": 0.01} if name in LEARNED else {}
        # features of noise are so alike that an encoder as it starts gives one code, where a cosine
        # has no gradient, and where CIBHash stays for most seeds
        own |= {"batch_norm": True} if name in ("GreedyHash", "CIBHash") else {}
        own |= {"centre": True} if name == "GreedyHash" else {}
        own |= {"contrastive_weight": 0.1} if name == "SDC" else {}
        config["reproduce"]["methods"][name] = {
            "class_path": f"udmsh_pl.baselines.{name}",
            "init_args": own,
        }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "plan.yaml"


def test_a_plan_of_all_methods_runs_and_each_learns(
    colours: Path, udmsh: Run, tmp_path: Path
) -> None:
    config = config_of(colours, tmp_path)
    assert udmsh("reproduce", config, "--out", "run", "--trainer.max_epochs", 12) == 0
    results = read_results(tmp_path / "run/results.csv")
    values = {
        result.method: result.value
        for result in results
        if result.bits and result.ties == "expected"
    }
    assert set(values) == set(METHODS)
    for name in METHODS:
        assert values[name] > 0.32, (name, values)  # four colours: chance is near 0.27


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_two_processes_share_a_teacher_and_a_batch(
    name: str,
    colours: Path,
    udmsh_process: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    config = yaml.safe_load(config_of(colours, tmp_path).read_text())
    own = {"bits": 8, "backbone": "tf_efficientnet_lite0", "hidden": 32}
    config["model"] = {"class_path": f"udmsh_pl.baselines.{name}", "init_args": own}
    (tmp_path / "ddp.yaml").write_text(yaml.safe_dump(config))
    ddp = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.max_epochs", 1)
    done = udmsh_process("fit", "--config", "ddp.yaml", *ddp, "--data.batch_size", 8)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_shallow_method_is_a_model_of_one_file(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ("--config", colours / "config.yaml", "--trainer.default_root_dir", "run")
    assert udmsh("fit", *config, "--model", "ITQ", "--model.bits", 8, "--model.seed", 1) == 0
    [checkpoint] = (tmp_path / "run").rglob("*.ckpt")
    assert str(checkpoint.relative_to(tmp_path)) in capsys.readouterr().out
    assert udmsh("predict", *config, "--ckpt_path", checkpoint) == 0
    plan = ("reproduce", colours / "config.yaml", "--bits", 8, "--seeds", 1, "--methods", "itq")
    assert udmsh(*plan, "--out", "plan") == 0
    with (
        np.load(tmp_path / "run/codes.npz") as one,
        np.load(tmp_path / "plan/cells/itq-8-1/codes.npz") as two,
    ):
        for name in ("query_codes", "database_codes"):
            np.testing.assert_array_equal(one[name], two[name])
    for options, words in (
        (("--model", "LSH", "--ckpt_path", checkpoint), "--model.method LSH, but"),
        (("--model", "BiHalf", "--ckpt_path", checkpoint), "--model BiHalf, but"),
        (("--ckpt_path", "last"), "whose class is udmsh_pl.baselines.shallow.Shallow"),
        (("--model", "ITQ", "--ckpt_path", "last"), "whose bits is 8, not 12"),
    ):
        assert udmsh("predict", *config, *options) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in error, error
    wide = ("--model", "ITQ", "--model.bits", 8, "--model.seed", 1, "--ckpt_path", "last")
    assert udmsh("predict", *config, *wide) == 0
