"""OpenVINO: a light import, and one core for the whole life of a process."""

import sys
from contextlib import suppress
from functools import cache
from typing import Any


def import_openvino() -> None:
    """Import OpenVINO, where it is installed, without its converter, whose telemetry brings an HTTP
    client along.

    That takes a fifth of a search from the command line. For a process that converts nothing.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    with suppress(ImportError):  # torch does its work then, as `search.runners` says
        import openvino  # noqa: F401


@cache
def openvino_core() -> Any:
    """The process's ``openvino.Core``, which is never destroyed.

    OpenVINO's CPU plugin gives the thread that makes it a stack for signals and puts an older one
    back when it is destroyed. After several cores that one may be freed memory, and the next signal
    that Python handles (a data loader's worker that ends, Ctrl-C) ends the process.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    import openvino

    return openvino.Core()
