"""Published weights: fetched, or one line within seconds that says that there is no network."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from urllib.parse import urlsplit
from urllib.request import getproxies

from udmsh_pl.errors import InputError

HUB = "https://huggingface.co"  # where timm's weights are
PATIENCE = 5.0  # seconds for a connection


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
    """Download weights within, or take them from the cache of earlier downloads.

    Raises:
        InputError: they are neither there nor within reach.
    """
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
