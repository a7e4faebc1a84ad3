"""Teachers on disk: fitted once for the same features and settings, whole or fitted again."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from udmsh_pl.errors import InputError
from udmsh_pl.features import verified
from udmsh_pl.features.store import Arrays
from udmsh_pl.features.teacher import HasTrainFeatures, TrainFeatures

ARRAYS: Arrays = {"global_feature": np.arange(12, dtype=np.float16).reshape(4, 3)}
SCRIPT = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np, torch
from udmsh_pl.features.teacher import TrainFeatures

@dataclass(frozen=True)
class Power:
    power: float

def fit(arrays, settings):
    with open(sys.argv[2], "a") as calls:
        calls.write("fitted\\n")
    time.sleep(1)
    return {"mean": torch.from_numpy(arrays["x"].mean(0)) ** settings.power}

while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
features = TrainFeatures({"x": np.full((2, 3), 3.0)}, Path(sys.argv[1]), "k")
found = features.teacher("t", Power(2), fit)
print(found["mean"].tolist())
"""


@dataclass(frozen=True)
class Power:
    power: float = 2.0


class Fit:
    """Squares the features, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, arrays: Arrays, settings: Power) -> dict[str, torch.Tensor]:
        self.calls += 1
        features = torch.from_numpy(arrays["global_feature"]).float()
        both = torch.stack([features.mean(0), features.std(0)])
        turned = torch.arange(6.0).view(2, 3).T  # neither contiguous nor alone in its memory
        return {"mean": both[0] ** settings.power, "row": both[1], "turned": turned}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read for a checksum."""
    names: list[str] = []
    original = verified.sha256_file
    monkeypatch.setattr(
        verified, "sha256_file", lambda path: names.append(path.name) or original(path)
    )
    return names


def test_a_teacher_is_fitted_once_and_read_by_map(tmp_path: Path) -> None:
    fit, features = Fit(), TrainFeatures(ARRAYS, tmp_path / "teachers", "store-1")
    first = features.teacher("squares", Power(), fit)
    again = TrainFeatures(ARRAYS, tmp_path / "teachers", "store-1").teacher("squares", Power(), fit)
    assert fit.calls == 1
    expected = fit(ARRAYS, Power())
    assert set(first) == set(again) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=0)
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    maps = Path("/proc/self/maps")
    if maps.exists():
        [path] = (tmp_path / "teachers").glob("squares-*.safetensors")
        assert str(path) in maps.read_text()


@pytest.mark.parametrize(
    ("key", "name", "power"),
    [("store-2", "squares", 2.0), ("store-1", "others", 2.0), ("store-1", "squares", 3.0)],
)
def test_other_features_names_and_settings_are_other_teachers(
    tmp_path: Path, key: str, name: str, power: float
) -> None:
    fit = Fit()
    TrainFeatures(ARRAYS, tmp_path, "store-1").teacher("squares", Power(), fit)
    found = TrainFeatures(ARRAYS, tmp_path, key).teacher(name, Power(power), fit)
    assert fit.calls == 2
    torch.testing.assert_close(found["mean"], torch.tensor([4.5, 5.5, 6.5]) ** power)


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    fit = Fit()
    for _ in range(2):
        TrainFeatures(ARRAYS).teacher("squares", Power(), fit)
    assert fit.calls == 2


def test_bytes_are_read_once_and_again_when_the_file_has_changed(
    tmp_path: Path, hashed: list[str]
) -> None:
    fit, features = Fit(), TrainFeatures(ARRAYS, tmp_path, "store-1")
    for _ in range(3):
        features.teacher("squares", Power(), fit)
    [path] = tmp_path.glob("*.safetensors")
    assert hashed == [path.name]
    os.utime(path, ns=(1, 1))
    for _ in range(3):
        features.teacher("squares", Power(), fit)
    assert hashed == [path.name] * 2
    assert fit.calls == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "sums", "no sums"])
def test_a_damaged_teacher_is_fitted_again(tmp_path: Path, damage: str) -> None:
    fit, features = Fit(), TrainFeatures(ARRAYS, tmp_path, "store-1")
    features.teacher("squares", Power(), fit)
    [path] = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "sums":
        path.with_suffix(".json").write_text('["nothing"]')
    else:
        path.with_suffix(".json").unlink()
    found = features.teacher("squares", Power(), fit)
    assert fit.calls == 2
    torch.testing.assert_close(found["mean"], torch.tensor([4.5, 5.5, 6.5]) ** 2)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond 16 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    fit, features = Fit(), TrainFeatures(ARRAYS, tmp_path, "store-1")
    with full_disk(), pytest.raises(InputError, match=r"squares-.*free some room.*cache_dir"):
        features.teacher("squares", Power(), fit)
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob(".*part*"))
    features.teacher("squares", Power(), fit)
    features.teacher("squares", Power(), fit)
    assert fit.calls == 2


def test_a_teacher_that_cannot_be_read_is_not_fitted_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, features = Fit(), TrainFeatures(ARRAYS, tmp_path, "store-1")
    features.teacher("squares", Power(), fit)

    def no_memory(path: Path) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("udmsh_pl.features.teacher.load_file", no_memory)
    with pytest.raises(InputError, match=r"squares-.*Cannot allocate memory"):
        features.teacher("squares", Power(), fit)
    assert fit.calls == 1
    assert list(tmp_path.glob("*.safetensors"))


def test_two_processes_that_ask_at_once_fit_it_once(tmp_path: Path, python: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    names = ("script.py", "teachers", "calls.txt", "go")
    command = [str(python), *(str(tmp_path / name) for name in names)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    (tmp_path / "go").touch()
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert answers == ["[9.0, 9.0, 9.0]\n"] * 2
    assert (tmp_path / "calls.txt").read_text() == "fitted\n"


def test_what_has_train_features() -> None:
    class Mine:
        train_features = TrainFeatures(ARRAYS)

    assert isinstance(Mine(), HasTrainFeatures)
    assert not isinstance(object(), HasTrainFeatures)
