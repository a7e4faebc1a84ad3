"""What a run ran on: versions, commit, split and command, as ``environment.json`` in its folder."""

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from udmsh_pl import __version__
from udmsh_pl.files import write_text

PACKAGES = ("torch", "lightning", "numpy", "faiss-cpu", "numba", "torchvision", "timm")


def git_commit(folder: Path) -> str | None:
    """Commit that ``folder`` has checked out, ``+changes`` behind it when files differ; None
    outside of a repository.
    """
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(folder), *question], capture_output=True, text=True, check=True
            ).stdout.strip()
            for question in (
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return answers[0] + ("+changes" if answers[1] else "")


def environment(split_sha256: str) -> dict[str, Any]:
    """Versions, the commits of package and working directory, the fingerprint of the splits, and
    the command.
    """
    versions = {"python": platform.python_version(), "udmsh_pl": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return {
        "versions": versions,
        "platform": platform.platform(),
        "package_commit": git_commit(Path(__file__).parent),
        "working_directory_commit": git_commit(Path.cwd()),
        "split_sha256": split_sha256,
        "command": sys.argv,
    }


def write_environment(folder: Path, split_sha256: str) -> None:
    """Write ``environment.json`` into a run's folder."""
    write_text(folder / "environment.json", json.dumps(environment(split_sha256), indent=1) + "\n")
