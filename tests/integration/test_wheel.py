"""The wheel alone, in an environment of its own outside of the clone, runs the sample."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from udmsh_pl.reports.table_rows import read_results

ROOT = Path(__file__).resolve().parents[2]


def call(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_wheel_runs_the_sample_outside_of_the_clone(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT, cwd=ROOT)
    [wheel] = (tmp_path / "dist").glob("udmsh_pl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = ("experiments/sample.yaml", "CITATION.cff", "reports/page/report.html.j2", "py.typed")
    assert {f"udmsh_pl/{name}" for name in inside} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]

    # dependencies are shared by a .pth file; .pth files over there, the clone's too, do not count
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(call(python, "-c", where, cwd=tmp_path).stdout.strip())
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--ignore-installed")
    call(*pip, "--python", python, *install, wheel, cwd=tmp_path)
    source = call(python, "-c", "import udmsh_pl; print(udmsh_pl.__file__)", cwd=tmp_path).stdout
    assert source.startswith(str(site))

    udmsh = tmp_path / "venv" / "bin" / "udmsh"
    assert "sample" in call(udmsh, "--help", cwd=tmp_path).stdout
    options = ("--bits", 16, "--seeds", 0, "--methods", "lsh")
    options = (*options, "--data.cache_dir", "cache", "--data.image_size", 64)
    told = call(udmsh, "reproduce", "sample", *options, cwd=tmp_path).stdout
    assert "| lsh |" in told
    rows = read_results(tmp_path / "runs" / "sample" / "results.csv")
    assert {row.method for row in rows} == {"lsh", "cosine (real-valued)"}
    assert "How to cite" in (tmp_path / "runs" / "sample" / "report.html").read_text()
