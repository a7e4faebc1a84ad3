"""One core a process: a destroyed one takes the stack that signals are handled on with it."""

import re
import sys
from pathlib import Path

import pytest

import udmsh_pl
from udmsh_pl.backbones.openvino import openvino_core


def test_there_is_one_core_and_nobody_makes_another() -> None:
    pytest.importorskip("openvino", reason="needs the extra udmsh-pl[extract]")
    assert openvino_core() is openvino_core()
    makes = re.compile(r"openvino\.(Core\(|compile_model\()")
    found = [
        path.name
        for path in Path(udmsh_pl.__file__).parent.rglob("*.py")
        if makes.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["openvino.py"]


def test_nobody_is_told_what_is_converted() -> None:
    pytest.importorskip("openvino", reason="needs the extra udmsh-pl[extract]")
    from openvino.tools.ovc import telemetry_utils

    assert sys.modules["openvino_telemetry"] is None
    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
