"""Does an exported graph say what torch says?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.search.pictures import find_pictures
from udmsh_pl.search.reading import read_files
from udmsh_pl.search.runners import runner_of
from udmsh_pl.search.spec import EncoderSpec

BATCH = 16


def differing_bits(
    folder: Path, spec: EncoderSpec, target: str, pictures: Path
) -> tuple[int, int, int, int]:
    """Differing bits, all bits, the largest difference of a feature's entry, and pictures seen.

    Raises:
        InputError: no pictures there, or the graph's runtime is not installed.
    """
    graph, torch_run = _graph(folder, spec, target), runner_of(folder, spec, "torch")
    names = list(find_pictures(pictures))
    if not names:
        raise InputError(f"{pictures}: no pictures here; give --check a folder of pictures")
    reads = read_files(pictures, names, spec.image_size, {})
    pixels = [read.picture.pixels for read in reads if read.picture is not None]
    bits, furthest = 0, 0
    for start in range(0, len(pixels), BATCH):
        batch = np.stack(pixels[start : start + BATCH])
        codes, features = torch_run(batch)
        answers = graph(batch)
        bits += int(np.unpackbits(codes ^ answers[0]).sum())
        if spec.dims:
            far = np.abs(features.astype(int) - answers[1].astype(int)).max()
            furthest = max(furthest, int(far))
    return bits, len(pixels) * spec.bits, furthest, len(pixels)


def _graph(
    folder: Path, spec: EncoderSpec, target: str
) -> Callable[[NDArray[np.uint8]], list[NDArray[Any]]]:
    if target == "openvino":
        run = runner_of(folder, spec, "openvino")
        return lambda pixels: list(run(pixels))
    if target == "torchscript":
        import torch

        traced = torch.jit.load(str(folder / "encoder.pt"))  # type: ignore[no-untyped-call]
        return lambda pixels: [part.numpy() for part in traced(torch.from_numpy(pixels))]
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("--check needs the extra: pip install 'udmsh-pl[export]'") from error
    session = onnxruntime.InferenceSession(
        str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    return lambda pixels: list(session.run(None, {"pixels": pixels}))
