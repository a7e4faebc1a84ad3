"""Copies found by ``udmsh duplicates``, PHash, DHash and a CNN: recall by kind of copy, precision.

    python benchmarks/duplicates.py PICTURES [--originals 1000] [--small FOLDER]
        [--model INDEX_OR_CKPT] [--work FOLDER] [--out FILE] [--only-ours]

Of some pictures, six copies each are made (half size, JPEG quality 30, a random tenth of both
sides cut off, 1.3 times as bright, mirrored, turned by 90 degrees) and put among all pictures of
the folder, many of which are merely alike. A method gives pairs; a pair is right when both come
from one original. PHash and DHash are written out here by the definitions of imagededup 0.3 (Jain
et al., 2019), at its default of 10 bits and at the radius whose F1 is best; its CNN is a cosine of
a network's pooled feature, at its default of 0.9 and at the threshold whose F1 is best, here with
EfficientNet-Lite0, since the weights of its own network cannot be had offline.

Among them are pictures that are alike and no copies: forms filled in otherwise, captions, screens,
shots of a moving thing; the second table counts pairs of those that are called copies. With
``--small`` (a folder of pictures of 32 x 32, CIFAR-10), near-duplicates of that size are a third.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from scipy.fft import dct

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE
from udmsh_pl.features.extract import FeatureExtractor
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.retrieval.codes import code_words, popcounts
from udmsh_pl.search import HashEncoder, ImageIndex
from udmsh_pl.search.duplicates import RADIUS, candidates

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


def make_lookalikes(photos: list[Path], folder: Path, generator: random.Random) -> None:
    """Pictures that a person would not call copies: five fillings of a form, a photo with five
    captions, three states of a screen, three shots of a moving thing.
    """
    for number in range(8):
        for filling in range(5):
            save_lookalike(form(number, generator), folder, f"form-{number}-{filling}")
    for number in range(10):
        for state in range(3):
            save_lookalike(screen(number, generator), folder, f"screen-{number}-{state}")
    for path in photos[:10]:
        for number in range(5):
            with Image.open(path) as photo:
                words = "".join(generator.choices("abcdefghi jklmno prstuv", k=22))
                captioned = write_on(photo.convert("RGB"), words)
            save_lookalike(captioned, folder, f"caption-{path.stem}-{number}")
    for path, other in zip(photos[10:25], photos[25:40], strict=True):
        with Image.open(path) as scene, Image.open(other) as texture:
            shots = burst(scene.convert("RGB"), texture.convert("RGB"), generator)
        for number, shot in enumerate(shots):
            save_lookalike(shot, folder, f"burst-{path.stem}-{number}")


def save_lookalike(image: Image.Image, folder: Path, name: str) -> None:
    image.save(folder / f"{name}.jpg", quality=90)


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size
    )


def form(number: int, generator: random.Random) -> Image.Image:
    """A page of twenty lines; those of one number differ in five numbers that are filled in."""
    fixed = random.Random(number)
    page = Image.new("RGB", (1240, 1754), (252, 252, 250))
    pen = ImageDraw.Draw(page)
    filled = set(fixed.sample(range(20), 5))
    for line in range(20):
        top = 200 + line * 70
        words = "".join(fixed.choices("abcdefghi jklmno prstuv", k=22))
        pen.text((80, top), words, font=font(28), fill=(30, 30, 30))
        pen.rectangle((620, top - 10, 1160, top + 45), outline="black", width=2)
        if line in filled:
            value = str(generator.randint(1000, 99999))
            pen.text((640, top), value, font=font(30), fill=(20, 20, 120))
    return page


def screen(number: int, generator: random.Random) -> Image.Image:
    """A dashboard of nine numbers and lines; those of one number differ in the middle value."""
    fixed = random.Random(number)
    ink, paper = ((220, 220, 220), (30, 30, 34)) if number % 2 else ((40, 40, 40), (245, 246, 248))
    page = Image.new("RGB", (1280, 800), paper)
    pen = ImageDraw.Draw(page)
    for place in range(9):
        left, top = 40 + place % 3 * 410, 90 + place // 3 * 230
        pen.rectangle((left, top, left + 380, top + 200), outline=ink)
        value = (generator if place == 4 else fixed).randint(100, 999)
        pen.text((left + 15, top + 50), str(value), font=font(30), fill=ink)
        line = [(left + 15 + 18 * step, top + 180 - fixed.randint(0, 70)) for step in range(20)]
        pen.line(line, fill=(200, 80, 60), width=3)
    return page


def write_on(photo: Image.Image, words: str) -> Image.Image:
    place, size = (photo.width // 10, photo.height * 86 // 100), max(10, photo.height // 14)
    pen = ImageDraw.Draw(photo)
    pen.text(place, words, font=font(size), fill="white", stroke_width=1, stroke_fill="black")
    return photo


def burst(scene: Image.Image, texture: Image.Image, generator: random.Random) -> list[Image.Image]:
    """Three shots: the camera moves by some pixels, a thing by a tenth of the width."""
    width, height = scene.size
    side = width // generator.choice([6, 8, 10])
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).ellipse((1, 1, side - 2, side - 2), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(1))
    thing = texture.resize((width, height)).crop(
        (width // 3, height // 3, width // 3 + side, height // 3 + side)
    )
    left, top = generator.randint(8, width // 2), generator.randint(8, height - side - 8)
    shots = []
    for shot in range(3):
        view = scene.copy()
        view.paste(thing, (left + shot * width // 10, top), mask)
        right, down = generator.randint(0, 6), generator.randint(0, 6)
        shots.append(view.crop((right, down, width - 6 + right, height - 6 + down)))
    return shots


def make_small(
    tiny: list[Path], photos: list[Path], folder: Path, generator: random.Random
) -> None:
    """Near-duplicates at 32 x 32 pixels, 100 of each kind, among as many others again."""
    for number, path in enumerate(tiny):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image.save(folder / f"{path.parent.name}{path.stem}.png")
        if number < 100:
            hue = image.convert("HSV").split()[0].point(lambda value: (value + 20) % 256)
            turned = Image.merge("HSV", (hue, *image.convert("HSV").split()[1:])).convert("RGB")
            copy, kind = (
                ImageEnhance.Color(turned).enhance(generator.choice([0.5, 1.5])),
                "recoloured",
            )
        elif number < 200:
            copy, kind = image.convert("L"), "grey"
        elif number < 300:
            left, top = generator.randint(0, 4), generator.randint(0, 4)
            copy, kind = image.crop((left, top, left + 27, top + 27)).resize((32, 32)), "cut"
        else:
            continue
        copy.save(folder / f"{path.parent.name}{path.stem}.{kind}.png")
    for path in photos:
        with Image.open(path) as opened:
            view = ImageOps.fit(opened.convert("RGB"), (36, 36))
        right, down = generator.choice([(1, 0), (2, 1), (0, 3), (4, 2), (3, 3), (4, 4)])
        view.crop((0, 0, 32, 32)).save(folder / f"s{path.stem}.png")
        view.crop((right, down, right + 32, down + 32)).save(folder / f"s{path.stem}.shifted.png")


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
    arrays = FeatureExtractor(work / "cache", OFFLINE_BACKBONE, workers=1).stored(images).arrays
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
    parser.add_argument("--small", type=Path, help="folder of pictures of 32 x 32")
    parser.add_argument("--only-ours", action="store_true", help="leave the other methods out")
    parser.add_argument("--work", type=Path, help="keep pictures, index and features here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/duplicates.md"))
    arguments = parser.parse_args()
    if arguments.pictures is None:
        print("duplicates.py: left out, it wants a folder of real pictures")
        return
    generator = random.Random(0)
    names = sorted(arguments.pictures.glob("*.jpg"))
    chosen = generator.sample(names, arguments.originals)
    others = sorted(set(names) - set(chosen))
    generator.shuffle(others)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        folder = work / "pictures"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for path in names:
                shutil.copy(path, folder)
            for path in chosen:
                make_copies(path, folder, generator)
            make_lookalikes(others[:40], folder, generator)
        encoder = None if arguments.model is None else HashEncoder.load(arguments.model)
        index = opened(work / "index", folder, encoder)
        start = time.process_time()
        pairs = copies_in(index)
        seconds = time.process_time() - start
        stems = [path.stem for path in chosen]
        rows = {f"udmsh duplicates ({seconds:.0f} CPU s)": scores(pairs, stems)}
        print(rows, flush=True)
        alike = lookalikes(pairs, sorted(path.stem for path in folder.glob("*-*-*.jpg")))
        everything = np.arange(len(index))
        proposed = [*candidates(index.rows.codes, index.rows.features, RADIUS, everything)]
        files = index.rows.names
        rows[f"its {len(proposed):,} candidates"] = scores(
            {(files[one], files[two]) for one, two, _ in proposed}, stems
        )
        paths = sorted(folder.glob("*.jpg"))
        if not arguments.only_ours:
            for name, function in (("PHash", phash), ("DHash", dhash)):
                tables = [scores(found, stems) for found in hash_pairs(paths, function)]
                best = max(range(21), key=lambda radius: _f1(tables[radius]))
                rows[f"{name}, radius 10"] = tables[10]
                rows[f"{name}, radius {best} (best F1)"] = tables[best]
            tables = [scores(found, stems) for found in cnn_pairs(paths, work)]
            best = max(range(len(tables)), key=lambda place: _f1(tables[place]))
            rows["CNN, cosine 0.9"] = tables[THRESHOLDS.index(0.9)]
            rows[f"CNN, cosine {THRESHOLDS[best]} (best F1)"] = tables[best]
        small = "" if arguments.small is None else small_table(arguments.small, others, work, index)
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
    lines += [
        "",
        "Pictures that are alike and no copies: pairs of one scene, and how many of them ",
    ]
    lines[-1] += "`udmsh duplicates` calls copies."
    lines += ["", "| kind | pairs | called copies |", "|---|---|---|"]
    lines += [f"| {kind} | {total} | {wrong} |" for kind, (total, wrong) in alike.items()]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n" + small)
    print(arguments.out.read_text())


def opened(path: Path, folder: Path, encoder: HashEncoder | None) -> ImageIndex:
    if not path.is_dir():
        ImageIndex.build(folder, encoder, path)
    return ImageIndex.open(path)


def copies_in(index: ImageIndex) -> Pairs:
    """Pairs of the picture that is kept, its copies, and those among each other."""
    groups = [
        [one.path.name for one in group if one.is_copy or one.relation == "first"]
        for group in index.duplicates()
    ]
    return {pair for group in groups for pair in combinations(group, 2)}


def lookalikes(pairs: Pairs, stems: list[str]) -> dict[str, tuple[int, int]]:
    """Pairs of one scene, and those called copies, by kind."""
    called = {frozenset((one.split(".")[0], two.split(".")[0])) for one, two in pairs}
    found: dict[str, tuple[int, int]] = {}
    for one, two in combinations(stems, 2):
        if one.rsplit("-", 1)[0] == two.rsplit("-", 1)[0]:
            kind = one.split("-")[0]
            total, wrong = found.get(kind, (0, 0))
            found[kind] = total + 1, wrong + (frozenset((one, two)) in called)
    return found


def small_table(source: Path, photos: list[Path], work: Path, index: ImageIndex) -> str:
    """Recall of near-duplicates at 32 x 32, and the share of pairs that are right."""
    folder, generator = work / "small", random.Random(1)
    if not folder.is_dir():
        folder.mkdir()
        tiny = sorted([*source.rglob("*.jpg"), *source.rglob("*.png")])
        make_small(generator.sample(tiny, 800), photos[40:140], folder, generator)
    pairs = copies_in(opened(work / "small_index", folder, index.encoder))
    ordered = {tuple(sorted(pair)) for pair in pairs}
    lines = [
        "",
        "Near-duplicates of 32 x 32 pixels:",
        "",
        "| kind | pairs | found |",
        "|---|---|---|",
    ]
    for kind in ("shifted", "recoloured", "grey", "cut"):
        copies = sorted(folder.glob(f"*.{kind}.png"))
        wanted = [tuple(sorted((f"{one.name.split('.')[0]}.png", one.name))) for one in copies]
        found = sum(pair in ordered for pair in wanted)
        lines.append(f"| {kind} | {len(wanted)} | {found / max(len(wanted), 1):.3f} |")
    right = sum(one.split(".")[0] == two.split(".")[0] for one, two in ordered)
    lines.append(f"\n{len(ordered)} pairs are called copies, {right} of them are.")
    return "\n".join(lines) + "\n"


def _f1(table: dict[str, float]) -> float:
    total = table["precision"] + table["all"]
    return 2 * table["precision"] * table["all"] / total if total else 0.0


if __name__ == "__main__":
    main()
