"""Images a second from pixels to features: ours, a plain PyTorch loop, the backbone alone.

    python benchmarks/encoding.py [--images 512] [--rounds 5] [--folder DIR]

On the embedded sample, or on the images of a folder. The contenders take turns; a figure is the
median over rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE
from udmsh_pl.backbones.pixels import Forward, forward_of
from udmsh_pl.data.fashion_mnist import load_sample
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import eval_transform
from udmsh_pl.images.walk import walk
from udmsh_pl.models import backbone_info, build_backbone
from udmsh_pl.safe.files import write_text


class Plain(Dataset[torch.Tensor]):
    """Images as most training code loads them: Pillow, resized and normalised one by one."""

    def __init__(self, images: ImageList) -> None:
        info = backbone_info(OFFLINE_BACKBONE, None)
        self.images = images
        side = (info.image_size, info.image_size)
        bicubic = v2.InterpolationMode.BICUBIC
        steps = [v2.Resize(side, bicubic), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        self.transform = v2.Compose([*steps, v2.Normalize(info.mean, info.std)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        pixels: torch.Tensor = self.transform(self.images.load(row))
        return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure feature extraction.")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="folder with images instead of the embedded sample"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "encoding.md"
    )
    arguments = parser.parse_args()
    if arguments.folder:
        names = list(walk(arguments.folder).files)[: arguments.images]
        images = ImageList(names, np.zeros((len(names), 0), dtype=bool), arguments.folder)
    else:
        images = load_sample().database.select(range(arguments.images))
    info = backbone_info(OFFLINE_BACKBONE, None)
    backbone = build_backbone(OFFLINE_BACKBONE, None).eval()
    plain = Plain(
        images.select(range(min(len(images), 384)))
    )  # it is slow, and its rate does not depend on the number
    transform = eval_transform(info.image_size)
    pixels = torch.stack([transform(images.load(row)) for row in range(len(images))])
    floats = torch.stack([plain[row] for row in range(min(len(plain), 192))])
    ways = {
        "plain loop": lambda: loop(plain, backbone),
        "plain forward": lambda: batches(backbone, floats),
    }
    forwards = {}
    for runner in ("torch", "openvino"):
        start = time.perf_counter()
        forwards[runner] = forward_of(OFFLINE_BACKBONE, None, runner, runner, info.image_size, 2)  # type: ignore[arg-type]
        print(f"{runner}: ready in {time.perf_counter() - start:.1f} s")
    rates: dict[str, list[float]] = {}
    added: dict[str, list[float]] = {"torch": [], "openvino": []}

    def timed(name: str, count: int, way: Callable[[], object]) -> float:
        start = time.perf_counter()
        way()
        seconds = (time.perf_counter() - start) / count
        rates.setdefault(name, []).append(1 / seconds)
        return seconds

    for _ in range(arguments.rounds):
        timed(
            "plain PyTorch loop: Pillow, two workers, batches of 64", len(plain), ways["plain loop"]
        )
        timed("plain PyTorch, the backbone's forward alone", len(floats), ways["plain forward"])
        for runner, forward in forwards.items():
            alone = timed(
                f"ours with {runner}, the backbone's forward alone",
                len(images),
                partial(batches, forward, pixels),
            )
            whole = timed(
                f"ours, `--data.extractor {runner}`",
                len(images),
                partial(extract, images, runner, forward),
            )
            added[runner].append(100 * (whole / alone - 1))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(middle.values()))
    source = arguments.folder.name if arguments.folder else "the embedded sample"
    lines = [
        f"# From pixels to features: {len(images)} images of {source}, {OFFLINE_BACKBONE} at "
        f"{info.image_size} px, {torch.get_num_threads()} threads",
        "",
        "| way | images/s (median) | spread | against the plain loop |",
        "|---|---:|---:|---:|",
    ]
    for name, value in middle.items():
        lines.append(
            f"| {name} | {value:.0f} | {min(rates[name]):.0f}-{max(rates[name]):.0f} | "
            f"{value / first:.1f} |"
        )
    shares = [
        f"{statistics.median(values):.0f} % ({min(values):.0f}-{max(values):.0f}) with {name}"
        for name, values in added.items()
    ]
    lines += [
        "",
        "Ours includes decoding, writing and checksums, not the backbone's conversion (once a "
        "run). Beside the backbone's forward alone, measured right before it, that adds "
        f"{' and '.join(shares)}, on cores that decoding and backbone share.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(arguments.out, text)


def loop(plain: Plain, backbone: torch.nn.Module) -> None:
    with torch.inference_mode():
        for batch in DataLoader(plain, 64, num_workers=2):
            backbone(batch)


def batches(forward: Callable[[torch.Tensor], object], pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        for batch in pixels.split(64):
            forward(batch)


def extract(images: ImageList, runner: str, forward: Forward) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("udmsh_pl.features.extract.forward_of", return_value=forward),
    ):
        FeatureExtractor(Path(folder), OFFLINE_BACKBONE, runner=runner).stored(images)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
