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
    """Commit of a folder's repository, ``+changes`` behind it if files differ; None without one."""
    head = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    status = ("status", "--porcelain", "--untracked-files=no")
    changes = None if head is None else _output("git", "-C", str(folder), *status)
    return None if head is None or changes is None else head + ("+changes" if changes else "")


def _output(*command: str) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def package_commit() -> str | None:
    """:func:`git_commit` of this package's code, as it was at the first call."""
    return git_commit(Path(__file__).parent)


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None without one."""
    answer = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.splitlines()[0].strip() if answer else None


def environment(
    split_sha256: str, precision: str | None = None, world_size: int = 1
) -> dict[str, Any]:
    """Versions, GPUs, the CUDA that torch was built for and the driver, the commits of package and
    working directory, the fingerprint of the splits, the trainer's precision, how many processes
    train together, and the command.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    versions = {"python": platform.python_version(), "udmsh_pl": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return {
        "versions": versions,
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(gpus)],
        "cuda": torch.version.cuda if gpus else None,
        "driver": driver_version() if gpus else None,
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
