"""Which way feeds a backbone faster: decoding whole or reduced, resizing by Pillow or on tensors.

    python benchmarks/decoding.py FOLDER [--images 300] [--size 224] [--rounds 5]

Every way turns the same JPEG files into the same float tensor [3, size, size] on one thread. The
ways take turns, image block by image block, so that a busy machine disturbs all alike; the figure
is the median over rounds of CPU seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.transforms import eval_transform
from udmsh_pl.images.walk import walk
from udmsh_pl.safe.files import write_text

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure ways from JPEG files to tensors.")
    parser.add_argument("folder", type=Path, help="folder with JPEG files")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "decoding.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in walk(arguments.folder).files if name.endswith(".jpg")][
        : arguments.images
    ]
    images = ImageList(names, np.zeros((len(names), 0), dtype=bool), arguments.folder)
    transform = eval_transform(arguments.size, MEAN, STD)
    on_tensors = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((arguments.size, arguments.size), v2.InterpolationMode.BICUBIC),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "Pillow, resize in Pillow (used)": lambda row: transform(images.load(row)),
        "the same, decoded reduced (used)": lambda row: transform(
            images.load(row, 2 * arguments.size)
        ),
        "Pillow, resize on tensors": lambda row: on_tensors(images.load(row)),
        "torchvision.io, resize on tensors": lambda row: on_tensors(
            decode_jpeg(read_file(str(images.path(row))), mode=ImageReadMode.RGB)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        spent = dict.fromkeys(ways, 0.0)
        for start in range(0, len(images), 20):
            for name, way in ways.items():
                before = time.process_time()
                for row in range(start, min(start + 20, len(images))):
                    way(row)
                spent[name] += time.process_time() - before
        for name, value in spent.items():
            seconds[name].append(value)
    base = next(iter(ways))
    differences = {
        name: statistics.mean(
            float((way(row) - ways[base](row)).abs().mean()) for row in range(0, len(images), 10)
        )
        for name, way in ways.items()
    }
    width, height = (
        statistics.median(sides)
        for sides in zip(*(images.load(r).size for r in range(50)), strict=True)
    )
    sides = f"median {width:.0f} x {height:.0f} pixels"
    lines = [
        f"# Decoding: {len(images)} JPEG files, {sides}, to {arguments.size} px, one thread",
        "",
        "| way | ms an image (CPU, median) | spread | against Pillow | mean difference to it "
        "(normalised) |",
        "|---|---|---|---|---|",
    ]
    first = statistics.median(seconds[base])
    for name, values in seconds.items():
        middle, low, high = (
            1000 * one / len(images)
            for one in (statistics.median(values), min(values), max(values))
        )
        ratio = statistics.median(values) / first
        lines.append(
            f"| {name} | {middle:.2f} | {low:.2f}-{high:.2f} | {ratio:.2f} | "
            f"{differences[name]:.4f} |"
        )
    lines += [
        "",
        "torchvision.io decodes to the same values, but is deprecated since torchvision 0.29, so "
        "Pillow decodes.",
    ]
    lines += [
        "CPU seconds say nothing about waiting for a disk, which is what the one file is for."
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(arguments.out, text)


if __name__ == "__main__":
    main()
