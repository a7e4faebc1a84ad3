"""OpenVINO's core: one for the whole life of a process."""

from functools import cache
from typing import Any


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
