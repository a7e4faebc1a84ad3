"""What one training step of a method enters: functions, files, and moves between files of ours.

    python benchmarks/steps.py [--write benchmarks/results/steps.md]

Counted from ``training_step`` to the loss, on random features of 64 images; the teacher's part of
the batch, which the loader and ``teach`` make before it, is counted in rows of its own.
Comprehensions count as part of the function that they stand in.
"""

import argparse
import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning import Trainer

import udmsh_pl
from udmsh_pl.data.batches import FeatureData, train_loader
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus

ROOT = Path(udmsh_pl.__file__).parent
BEFORE = {"udmsh": (32, 10, 26), "udmsh-plus": (23, 7, 16)}  # version 0.2


class Entered:
    """Functions of ours in the order in which they were entered."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []  # file, function

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """What ``sys.setprofile`` calls."""
        path = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in path.parents and not frame.f_code.co_name.startswith("<"):
            self.calls.append((str(path.relative_to(ROOT)), frame.f_code.co_qualname))

    @property
    def counts(self) -> tuple[int, int, int]:
        """Different functions, different files, and moves from one file to another."""
        files = [file for file, _ in self.calls]
        moves = sum(one != other for one, other in itertools.pairwise(files))
        return len(set(self.calls)), len(set(files)), moves


def entered(run: Callable[[], Any]) -> tuple[Entered, Any]:
    """The functions that ``run`` enters, and its result."""
    seen = Entered()
    sys.setprofile(seen)
    try:
        result = run()
    finally:
        sys.setprofile(None)
    return seen, result


def features(rows: int = 64, dim: int = 1280) -> TrainFeatures:
    """Random features with two views, as of the default backbone."""
    draw = np.random.default_rng(0)
    clean = draw.random((4, dim))[np.arange(rows) % 4] ** 4 + 0.2 * draw.random((rows, dim))
    maps = clean[:, :, None, None] * draw.random((rows, dim, 2, 2))
    arrays = {
        "global_feature": clean,
        "feature_map": maps,
        "views": np.stack([clean, clean + 0.1], axis=1),
        "view_maps": np.stack([maps, maps], axis=1),
    }
    return TrainFeatures({name: array.astype(np.float16) for name, array in arrays.items()})


def counted(method: HashingModule) -> dict[str, Entered]:
    """One step of a method, in two parts: the teacher's and the student's."""
    data = FeatureData(features(), batch_size=32)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=1, enable_model_summary=False, **quiet)
    trainer.fit(method, datamodule=data)
    batch = next(iter(train_loader(data.train_features, method, 32)))
    before, taught = entered(lambda: method.teach(batch))
    step, loss = entered(lambda: method.train().training_step(taught, 0))
    assert torch.isfinite(loss)
    return {"step": step, "teacher": before}


def main() -> None:
    """Print the table, and who was entered."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="file for the table")
    path = parser.parse_args().write
    warnings.filterwarnings("ignore")
    lines = [
        "| method | part | functions | files | moves | of version 0.2 |",
        "|---|---|---|---|---|---|",
    ]
    listed = []
    for name, method in (("udmsh", UDMSH(bits=16)), ("udmsh-plus", UDMSHPlus(bits=16))):
        for part, found in counted(method).items():
            old = " / ".join(map(str, BEFORE[name])) if part == "step" else "counted in the step"
            lines.append(f"| {name} | {part} | {' | '.join(map(str, found.counts))} | {old} |")
            listed.append(f"- {name}, {part}:")
            listed += [f"    - `{file}` {call}" for file, call in dict.fromkeys(found.calls)]
    text = (
        "# One training step: functions, files, moves\n\n"
        "`python benchmarks/steps.py --write benchmarks/results/steps.md`; from `training_step` to "
        "the loss, functions of ours.\n\n" + "\n".join([*lines, "", *listed]) + "\n"
    )
    print(text)
    if path:
        path.write_text(text)


if __name__ == "__main__":
    main()
