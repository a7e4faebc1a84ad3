"""Images a second from pixels to features: ours against a plain PyTorch loop and against the trunk alone, the limit.

    python benchmarks/encoding.py [--images 512] [--rounds 5] [--folder DIR]

On the embedded sample, or on the images of a folder. The contenders take turns; a figure is the median over rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from udmsh_pl.data.extract import FeatureExtractor
from udmsh_pl.data.folder import find_images
from udmsh_pl.data.images import ImageList
from udmsh_pl.data.sample import load_sample
from udmsh_pl.files import write_text
from udmsh_pl.models import build_trunk, trunk_info
from udmsh_pl.models.backbones import OFFLINE_TRUNK


class Plain(Dataset[torch.Tensor]):
    """Images as most training code loads them: Pillow, resized and normalised one by one."""

    def __init__(self, images: ImageList) -> None:
        info = trunk_info(OFFLINE_TRUNK, None)
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
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="folder with images instead of the embedded sample")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encoding.md")
    arguments = parser.parse_args()
    if arguments.folder:
        names = find_images(arguments.folder)[: arguments.images]
        images = ImageList(names, np.zeros((len(names), 0), dtype=bool), arguments.folder)
    else:
        images = load_sample().database.select(range(arguments.images))
    trunk = build_trunk(OFFLINE_TRUNK, None).eval()
    plain = Plain(images)
    pixels = torch.stack([plain[row] for row in range(len(plain))])

    def loop() -> None:
        with torch.inference_mode():
            for batch in DataLoader(plain, 64, num_workers=2):
                trunk(batch)

    def ours(runner: str) -> Callable[[], None]:
        def extract() -> None:
            with tempfile.TemporaryDirectory() as folder:
                FeatureExtractor(Path(folder), OFFLINE_TRUNK, runner=runner).clean(images)  # type: ignore[arg-type]

        return extract

    def alone(runner: str) -> Callable[[], None]:
        run = FeatureExtractor(Path(), OFFLINE_TRUNK, runner=runner)._forward(pixels.shape[-1])  # type: ignore[arg-type]

        def forward() -> None:
            for batch in pixels.split(64):
                run(batch)

        return forward

    def plain_alone() -> None:
        with torch.inference_mode():
            for batch in pixels.split(64):
                trunk(batch)

    ways: dict[str, Callable[[], None]] = {
        "plain PyTorch loop: Pillow, two workers, batches of 64": loop,
        "plain PyTorch, the trunk's forward alone": plain_alone,
        "ours, `--data.extractor torch`": ours("torch"),
        "ours with torch, the trunk's forward alone": alone("torch"),
        "ours, `--data.extractor openvino`": ours("openvino"),
        "ours with OpenVINO, the trunk's forward alone": alone("openvino"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:  # the first round warms up
                rates[name].append(len(images) / (time.perf_counter() - start))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(middle.values()))
    lines = [
        f"# From pixels to features: {len(images)} images, {OFFLINE_TRUNK} at {pixels.shape[-1]} px, "
        f"{torch.get_num_threads()} threads",
        "",
        "| way | images/s (median) | spread | against the plain loop |",
        "|---|---:|---:|---:|",
    ]
    for name, value in middle.items():
        lines.append(f"| {name} | {value:.0f} | {min(rates[name]):.0f}-{max(rates[name]):.0f} | {value / first:.1f} |")
    values = list(middle.values())
    added = [100 * (values[number + 1] / values[number] - 1) for number in (2, 4)]
    lines += [
        "",
        "Ours includes decoding, model conversion, writing and checksums. Beside the trunk's forward alone that adds",
        f"{added[0]:.0f} % with torch and {added[1]:.0f} % with OpenVINO, on a machine where decoding and trunk share the cores.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(arguments.out, text)


if __name__ == "__main__":
    main()
