"""``environment.json`` says on what a run ran, with GPUs and without."""

import json
from pathlib import Path

import pytest

from udmsh_pl.reports import environment


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.86.10\necho 570.86.10\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_without_a_gpu_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    environment.write_environment(tmp_path, "ab")
    found = json.loads((tmp_path / "environment.json").read_text())
    assert (found["gpus"], found["cuda"], found["driver"]) == ([], None, None)
    assert (found["precision"], found["world_size"]) == ("32-true", 1)
    assert found["split_sha256"] == "ab"


@pytest.mark.usefixtures("nvidia_smi")
def test_gpus_cuda_and_driver_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: f"H{number}")
    monkeypatch.setattr("torch.version.cuda", "12.8")
    found = environment.environment("ab", "bf16-mixed", 2)
    assert (found["gpus"], found["cuda"], found["driver"]) == (["H0", "H1"], "12.8", "570.86.10")
    assert (found["precision"], found["world_size"]) == ("bf16-mixed", 2)


def test_a_machine_without_the_program_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment.driver_version() is None
