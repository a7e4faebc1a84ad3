"""Copies found by ``udmsh duplicates``, PHash, DHash and a CNN: recall by kind of copy, precision.

    python benchmarks/duplicates.py PICTURES [--originals 1000] [--model INDEX_OR_CKPT]
        [--work FOLDER] [--out FILE]

Of some pictures, six copies each are made (half size, JPEG quality 30, a random tenth of both
sides cut off, 1.3 times as bright, mirrored, turned by 90 degrees) and put among all pictures of
the folder, many of which are merely alike. A method gives pairs; a pair is right when both come
from one original. PHash and DHash are written out here by the definitions of imagededup 0.3 (Jain
et al., 2019), at its default of 10 bits and at the radius whose F1 is best; its CNN is a cosine of
a network's pooled feature, at its default of 0.9 and at the threshold whose F1 is best, here with
EfficientNet-Lite0, since the weights of its own network cannot be had offline.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dct

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.retrieval.codes import code_words, popcounts
from udmsh_pl.search import HashEncoder, ImageIndex
from udmsh_pl.search.duplicates import AXES, RADIUS, candidates

KINDS = ("resized", "recompressed", "cropped", "brightened", "mirrored", "rotated")
THRESHOLDS = tuple(round(0.7 + 0.01 * step, 2) for step in range(30))  # of the CNN's cosine
Pairs = set[tuple[str, str]]


def make_copies(original: Path, folder: Path, generator: random.Random) -> None:
    with Image.open(original) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    left, top = generator.randint(0, width // 10), generator.randint(0, height // 10)
    box = (left, top, left + width - width // 10, top + height - height // 10)
    copies = {
        "resized": image.resize((width // 2, height // 2)),
        "recompressed": image,
        "cropped": image.crop(box),
        "brightened": ImageEnhance.Brightness(image).enhance(1.3),
        "mirrored": ImageOps.mirror(image),
        "rotated": image.transpose(Image.Transpose.ROTATE_90),
    }
    for kind, copy in copies.items():
        quality = 30 if kind == "recompressed" else 90
        copy.save(folder / f"{original.stem}.{kind}.jpg", quality=quality)


def phash(image: Image.Image) -> NDArray[np.bool_]:
    grey = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS).convert("L"), dtype=float)
    low = dct(dct(grey, axis=0), axis=1)[:8, :8]
    bits: NDArray[np.bool_] = (low >= np.median(low.flatten()[1:])).ravel()
    return bits


def dhash(image: Image.Image) -> NDArray[np.bool_]:
    grey = np.asarray(image.resize((9, 8), Image.Resampling.LANCZOS).convert("L"), dtype=int)
    bits: NDArray[np.bool_] = (grey[:, 1:] > grey[:, :-1]).ravel()
    return bits


def hash_pairs(
    paths: list[Path], function: Callable[[Image.Image], NDArray[np.bool_]]
) -> list[Pairs]:
    """Pairs within each radius from 0 to 20."""
    bits = []
    for path in paths:
        with Image.open(path) as image:
            bits.append(function(image.convert("RGB")))
    words = code_words(np.packbits(bits, axis=1))
    found: list[Pairs] = [set() for _ in range(21)]
    for row in range(len(paths) - 1):
        distances = popcounts(words[row + 1 :] ^ words[row])
        for other in np.flatnonzero(distances <= 20):
            pair = paths[row].name, paths[row + 1 + other].name
            for radius in range(int(distances[other]), 21):
                found[radius].add(pair)
    return found


def cnn_pairs(paths: list[Path], work: Path) -> list[Pairs]:
    """Pairs whose features' cosine is at least each of THRESHOLDS."""
    images = ImageList(
        [path.name for path in paths], np.zeros((len(paths), 0), dtype=bool), paths[0].parent
    )
    arrays = FeatureExtractor(work / "cache", OFFLINE_BACKBONE, workers=1).clean(images)
    features = np.asarray(arrays["global_feature"], dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found: list[Pairs] = [set() for _ in THRESHOLDS]
    for row in range(len(paths) - 1):
        cosines = features[row + 1 :] @ features[row]
        for other in np.flatnonzero(cosines >= THRESHOLDS[0]):
            pair = paths[row].name, paths[row + 1 + other].name
            for place, threshold in enumerate(THRESHOLDS):
                if cosines[other] >= threshold:
                    found[place].add(pair)
    return found


def scores(pairs: Pairs, originals: list[str]) -> dict[str, float]:
    """Recall of (original, copy) by kind, of all pairs of a family, and precision."""
    ordered = {tuple(sorted(pair)) for pair in pairs}
    table: dict[str, float] = {}
    for kind in KINDS:
        wanted = [tuple(sorted((f"{stem}.jpg", f"{stem}.{kind}.jpg"))) for stem in originals]
        table[kind] = float(np.mean([pair in ordered for pair in wanted]))
    right = sum(one.split(".")[0] == two.split(".")[0] for one, two in ordered)
    table["all"] = right / (len(originals) * 21)  # pairs of seven
    table["precision"] = right / max(len(ordered), 1)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--originals", type=int, default=1000)
    parser.add_argument("--model", type=Path, help="encoder; without it one is learned")
    parser.add_argument("--work", type=Path, help="keep pictures, index and features here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/duplicates.md"))
    arguments = parser.parse_args()
    if arguments.pictures is None:
        print("duplicates.py: left out, it wants a folder of real pictures")
        return
    generator = random.Random(0)
    names = sorted(arguments.pictures.glob("*.jpg"))
    chosen = generator.sample(names, arguments.originals)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        folder = work / "pictures"
        if not (work / "index").is_dir():
            folder.mkdir(parents=True)
            for path in names:
                shutil.copy(path, folder)
            for path in chosen:
                make_copies(path, folder, generator)
            encoder = None if arguments.model is None else HashEncoder.load(arguments.model)
            ImageIndex.build(folder, encoder, work / "index")
        index = ImageIndex.open(work / "index")
        start = time.process_time()
        groups = index.duplicates()
        seconds = time.process_time() - start
        ours = {
            (one.path.name, two.path.name)
            for group in groups
            for one, two in combinations(group, 2)
        }
        stems = [path.stem for path in chosen]
        rows = {f"udmsh duplicates ({seconds:.0f} CPU s)": scores(ours, stems)}
        print(rows, flush=True)
        proposed = list(candidates(index.rows.codes, index.rows.features[:, :AXES], RADIUS))
        files = index.rows.names
        rows[f"its {len(proposed):,} candidates"] = scores(
            {(files[one], files[two]) for one, two, _ in proposed}, stems
        )
        paths = sorted(folder.glob("*.jpg"))
        for name, function in (("PHash", phash), ("DHash", dhash)):
            tables = [scores(pairs, stems) for pairs in hash_pairs(paths, function)]
            best = max(range(21), key=lambda radius: _f1(tables[radius]))
            rows[f"{name}, radius 10"] = tables[10]
            rows[f"{name}, radius {best} (best F1)"] = tables[best]
        tables = [scores(pairs, stems) for pairs in cnn_pairs(paths, work)]
        best = max(range(len(tables)), key=lambda place: _f1(tables[place]))
        rows["CNN, cosine 0.9"] = tables[THRESHOLDS.index(0.9)]
        rows[f"CNN, cosine {THRESHOLDS[best]} (best F1)"] = tables[best]
    columns = [*KINDS, "all", "precision", "F1"]
    for table in rows.values():
        table["F1"] = _f1(table)
    lines = ["# Copies", "", f"{len(paths):,} pictures, {len(stems):,} of them with six copies: "]
    lines[-1] += "recall of each kind beside its original, of all pairs of a family, precision, F1."
    lines.append("")
    lines += ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, table in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{table[column]:.3f}" for column in columns) + " |"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")
    print(arguments.out.read_text())


def _f1(table: dict[str, float]) -> float:
    total = table["precision"] + table["all"]
    return 2 * table["precision"] * table["all"] / total if total else 0.0


if __name__ == "__main__":
    main()
