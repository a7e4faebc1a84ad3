"""What a run ran on: versions, devices, commit, split and command: ``environment.json``."""

import json
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from udmsh_pl import __version__
from udmsh_pl.safe.files import write_text

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


@cache
def package_commit() -> str | None:
    """:func:`git_commit` of this package's code, as it was at the first call."""
    return git_commit(Path(__file__).parent)


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None without one."""
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.strip() for line in answer.stdout.splitlines() if line.strip()), None)


def devices() -> dict[str, Any]:
    """GPUs that torch sees, the CUDA that it was built for, and the driver; empty without."""
    here = torch.cuda.is_available()
    count = torch.cuda.device_count() if here else 0
    return {
        "gpus": [torch.cuda.get_device_name(number) for number in range(count)],
        "cuda": torch.version.cuda if here else None,
        "driver": driver_version() if here else None,
    }


def environment(
    split_sha256: str, precision: str | None = None, world_size: int = 1
) -> dict[str, Any]:
    """Versions, devices, the commits of package and working directory, the fingerprint of the
    splits, and the command.

    Args:
        split_sha256: the fingerprint
        precision: of the trainer, None for Lightning's own
        world_size: processes that train together
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
        **devices(),
        "precision": precision or "32-true",
        "world_size": world_size,
        "package_commit": package_commit(),
        "working_directory_commit": git_commit(Path.cwd()),
        "split_sha256": split_sha256,
        "command": sys.argv,
    }


def write_environment(
    folder: Path, split_sha256: str, precision: str | None = None, world_size: int = 1
) -> None:
    """Write ``environment.json`` into a run's folder; see :func:`environment`."""
    facts = environment(split_sha256, precision, world_size)
    write_text(folder / "environment.json", json.dumps(facts, indent=1) + "\n")
