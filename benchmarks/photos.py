"""Photographs of 12 megapixels: how many a second does ``udmsh index`` read, and other readers?

    python benchmarks/photos.py PICTURES [--count 500] [--heic 50] [--rivals PYTHON] [--out FILE]

PICTURES is a folder of real pictures. Each is enlarged to 4,000 x 3,000 pixels, gets a camera's
noise, and is saved as JPEG of 3 to 5 MB and, some of them, as HEIC (extra ``udmsh-pl[heif]``). A
row is a process of its own. The other readers want an interpreter that has clip-retrieval and
imagededup, ``--rivals``; weights do not matter for time, so imagededup's network is a random one.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from collection import timed
from udmsh_pl.images.decode import formats
from udmsh_pl.images.walk import walk
from udmsh_pl.safe.files import write_text

ROOT = Path(__file__).parents[1]
SIZE, NOISE = (4000, 3000), 9.0
JPEG: dict[str, Any] = {"quality": 90}
HEIC: dict[str, Any] = {"quality": 50, "enc_params": {"preset": "ultrafast"}}  # a minute without
AIM = 40  # JPEGs a second and core

PILLOW = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from PIL import Image
def read(path):
    with Image.open(path) as image:
        if reduced:
            image.draft("RGB", (448, 448))
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)).mean()
folder, threads, reduced = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "reduced"
if sys.argv[4] == "heic":
    import pillow_heif
    pillow_heif.register_heif_opener()
with ThreadPoolExecutor(threads) as pool:
    print(len(list(pool.map(read, sorted(folder.iterdir())))))
"""
CLIP_RETRIEVAL = """
import importlib.util, os, sys
from pathlib import Path
from torchvision import transforms as t
place = Path(importlib.util.find_spec("clip_retrieval").origin).parent
spec = importlib.util.spec_from_file_location("reader", place / "clip_inference/reader.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
see = t.Compose([t.Resize(224, t.InterpolationMode.BICUBIC), t.CenterCrop(224),
                 lambda image: image.convert("RGB"), t.ToTensor()])
batches = reader.FilesReader(lambda sampled: sampled, see, None, sys.argv[1], 64, os.cpu_count(),
                             enable_text=False, enable_image=True, enable_metadata=False)
print(sum(len(batch["image_filename"]) for batch in batches))
"""
IMAGEDEDUP_HASH = """
import os, sys
from imagededup.methods import PHash
if __name__ == "__main__":
    print(len(PHash(verbose=False).encode_images(sys.argv[1], num_enc_workers=os.cpu_count())))
"""
IMAGEDEDUP = """
import os, sys
from imagededup.methods import CNN
from imagededup.utils import CustomModel
from torchvision import models, transforms as t
if __name__ == "__main__":
    see = t.Compose([t.Resize((256, 256)), t.CenterCrop(224), t.ToTensor()])
    network = models.mobilenet_v3_small(weights=None).eval()
    cnn = CNN(verbose=False, model_config=CustomModel(name="small", model=network, transform=see))
    print(len(cnn.encode_images(sys.argv[1], num_enc_workers=os.cpu_count())))
"""


def photograph(source: Path, target: Path, noise: np.ndarray, number: int) -> None:
    """Enlarge a picture and lay noise over it that starts at a place of its own."""
    rng = np.random.default_rng(number)
    with Image.open(source) as opened:
        large = opened.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    shift = tuple(int(rng.integers(0, side)) for side in noise.shape[:2])
    noisy = np.asarray(large).astype(np.int16)
    noisy += np.roll(noise, shift, (0, 1))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
        target, **(HEIC if target.suffix == ".heic" else JPEG)
    )


def make(sources: list[Path], folder: Path, count: int, ending: str) -> None:
    """``count`` photographs of the sources, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (SIZE[1], SIZE[0], 3)
    noise = (np.random.default_rng(0).normal(0, 1, shape).astype(np.float32) * NOISE).astype("i2")
    jobs = [(one, folder / f"{one:04d}.{ending}") for one in range(count)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = [
            pool.submit(photograph, sources[number % len(sources)], target, noise, number)
            for number, target in jobs
            if not target.exists()
        ]
        for one in done:
            one.result()


def megabytes(folder: Path) -> str:
    """The least and the largest file."""
    sizes = [path.stat().st_size / 1e6 for path in folder.iterdir()]
    return f"{min(sizes):.1f} to {max(sizes):.1f} MB"


def script(python: Path | str, code: str, *arguments: object) -> list[str]:
    """A command that runs ``code``."""
    return [str(python), "-c", code, *map(str, arguments)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--heic", type=int, default=50)
    parser.add_argument("--rivals", type=Path, help="a Python with clip-retrieval and imagededup")
    parser.add_argument("--work", type=Path, help="keep photographs and indexes here")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/photos.md")
    arguments = parser.parse_args()
    if arguments.pictures is None:
        print("photos.py: left out, it wants a folder of real pictures")
        return
    sources = [arguments.pictures / name for name in walk(arguments.pictures).files]
    random.Random(0).shuffle(sources)
    with tempfile.TemporaryDirectory() as temporary:
        write_text(arguments.out, measured(arguments, sources, arguments.work or Path(temporary)))
    print(arguments.out.read_text(encoding="utf-8"))


def measured(arguments: argparse.Namespace, sources: list[Path], work: Path) -> str:
    """The page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    jpegs, heics, cores = work / "jpeg", work / "heic", os.cpu_count() or 1
    make(sources, jpegs, arguments.count, "jpg")
    if arguments.heic and "HEIF" not in formats():  # which registers the encoder too
        sys.exit("photos.py: pip install 'udmsh-pl[heif]', or give --heic 0")
    make(sources, heics, arguments.heic, "heic")
    load = os.getloadavg()[0]
    udmsh = [sys.executable, "-m", "udmsh_pl", "index"]
    learned, encoded, heic = (
        str(work / f"index-{name}") for name in ("learned", "encoded", "heic")
    )
    model, count = ["--model", f"{learned}/encoder-000001"], arguments.count
    rows = [
        ("`udmsh index`, learning included", count, [*udmsh, str(jpegs), "--out", learned]),
        ("`udmsh index --model`", count, [*udmsh, str(jpegs), "--out", encoded, *model]),
    ]
    for threads in (cores, 1):
        for way in ("reduced", "whole"):
            name = f"Pillow alone, decoded {way}, {threads} thread{'s' if threads > 1 else ''}"
            rows.append((name, count, script(sys.executable, PILLOW, jpegs, threads, way, "jpeg")))
    if arguments.rivals is not None:
        for name, code in (
            (f"clip-retrieval's reader, {cores} processes, no network", CLIP_RETRIEVAL),
            (f"imagededup's CNN (MobileNetV3 small), {cores} processes", IMAGEDEDUP),
            (f"imagededup's PHash, {cores} processes", IMAGEDEDUP_HASH),
        ):
            rows.append((name, count, script(arguments.rivals, code, jpegs)))
    if arguments.heic:
        alone = script(sys.executable, PILLOW, heics, cores, "whole", "heic")
        rows += [
            ("HEIC: `udmsh index --model`", arguments.heic,
             [*udmsh, str(heics), "--out", heic, *model]),
            (f"HEIC: Pillow alone, {cores} threads", arguments.heic, alone),
        ]  # fmt: skip
    lines = [
        "| reader | wall s | pictures a second | processor s | MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, count, command in rows:
        wall, processor, peak = timed(command)
        line = f"| {name} | {wall:.1f} | {count / wall:.1f} | {processor:.1f} | {peak:,.0f} |"
        print(line, flush=True)
        lines.append(line)
    return (
        "# Photographs of 12 megapixels\n\n`python benchmarks/photos.py PICTURES`: "
        f"{arguments.count} JPEGs ({megabytes(jpegs)}) and {arguments.heic} HEIC files "
        f"({megabytes(heics) if arguments.heic else 'none'}), 4,000 x 3,000 pixels, made from real "
        f"pictures enlarged with noise; {cores} cores, commit {commit}, load {load:.1f} before the "
        f"start. The aim is {AIM} JPEGs a second and core. MB is the largest memory of one "
        "process.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
