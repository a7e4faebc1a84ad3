"""A hundred mutated folders; the whole run is ``python -m tests.trees --count 5000``."""

import os
import subprocess
from pathlib import Path

from tests.trees.oracle import expected, gone, look

ROOT = Path(__file__).parents[2]


def test_a_hundred_trees_hold_what_the_oracle_says(python: Path) -> None:
    command = [str(python), "-m", "tests.trees", "--count", "100", "--seed", "1"]
    environment = {**os.environ, "TQDM_DISABLE": "1"}  # no bar for each of its indexes
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "100 trees" in done.stdout
    assert "0 failed" in done.stdout


def test_the_oracle_knows_gone_from_unreachable(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "there/dead.png").symlink_to("nowhere")
    names = {
        "there/a.png": True,
        "absent/a.png": True,
        "link/a.png": False,
        "there/dead.png": False,
    }
    assert {name: gone(tmp_path, name) for name in names} == names
    before = dict.fromkeys(names, b"0" * 16)
    after = expected(tmp_path, before, look(tmp_path, []), drop_outside=False)
    assert set(after) == {"link/a.png", "there/dead.png"}
