"""An encoder as one graph for other programs, from pixels to codes; and whether torch agrees."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from udmsh_pl.backbones.openvino import has_openvino
from udmsh_pl.errors import InputError
from udmsh_pl.images.ahead import batched
from udmsh_pl.images.walk import walk
from udmsh_pl.safe.files import atomic_path, sha256_file, write_text
from udmsh_pl.search.checkpoint import read_checkpoint
from udmsh_pl.search.encoder import HashEncoder, Pixels, runner_of
from udmsh_pl.search.graph import OUTPUTS, PixelEncoder, read_network, write_network
from udmsh_pl.search.hub import model_card
from udmsh_pl.search.pictures import read_files
from udmsh_pl.search.spec import EncoderSpec, write_spec

Format = Literal["onnx", "openvino", "torchscript"]
GRAPHS = {"onnx": "encoder.onnx", "openvino": "encoder.xml", "torchscript": "encoder.pt"}
BATCH = 16


def export(source: Path, target: Format, folder: Path) -> EncoderSpec:
    """Write ``encoder.json``, ``encoder.safetensors``, a graph and a model card of a ``.ckpt``, an
    index or another export to ``folder``, which is made where it is missing.

    Raises ``InputError``: no encoder there, or the extra that the format needs is not installed.
    """
    if target == "onnx" and (find_spec("onnx") is None or find_spec("onnxscript") is None):
        raise InputError("--format onnx needs the extra: pip install 'udmsh-pl[export]'")
    if target == "openvino" and not has_openvino():
        raise InputError("--format openvino needs the extra: pip install 'udmsh-pl[extract]'")
    if source.is_file():
        network, spec = read_checkpoint(source)
    else:
        encoder = HashEncoder.load(source)
        spec = replace(encoder.spec, files={})
        network = read_network(encoder.folder, encoder.spec)
    network = network.cpu().eval()
    folder.mkdir(parents=True, exist_ok=True)
    spec = write_network(network, spec, folder, graph=target == "openvino")
    if target != "openvino":
        name = GRAPHS[target]
        with atomic_path(folder / name) as partial:
            _write(network, spec, target, partial)
        spec = replace(spec, files=spec.files | {name: sha256_file(folder / name)})
        write_spec(folder, spec)
    write_text(folder / "README.md", model_card(spec, GRAPHS[target]))
    return spec


def differing_bits(
    folder: Path, spec: EncoderSpec, target: str, pictures: Path
) -> tuple[int, int, int, int]:
    """Differing bits, all bits, the largest difference of a feature's entry, and pictures seen.

    Raises ``InputError``: no pictures there, or the graph's runtime is not installed.
    """
    graph, torch_run = _graph(folder, spec, target), runner_of(folder, spec, "torch")
    names = list(walk(pictures).files)
    if not names:
        raise InputError(f"{pictures}: no pictures here; give --check a folder of pictures")
    reads = read_files(pictures, names, spec.image_size, {})
    bits, furthest, seen = 0, 0, 0
    for batch in batched((read.picture for read in reads if read.picture is not None), BATCH):
        pixels = np.stack([picture.pixels for picture in batch])
        (codes, features), answers = torch_run(pixels), graph(pixels)
        seen += len(pixels)
        bits += int(np.unpackbits(codes ^ answers[0]).sum())
        if spec.dims:
            far = np.abs(features.astype(int) - answers[1].astype(int)).max()
            furthest = max(furthest, int(far))
    return bits, seen * spec.bits, furthest, seen


def _write(network: PixelEncoder, spec: EncoderSpec, target: Format, path: Path) -> None:
    shape = (2, 3, spec.image_size, spec.image_size)
    # two different pictures, so that no exporter takes the batch for a constant
    drawn = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    example = drawn.to(torch.uint8)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if target == "torchscript":
            with torch.inference_mode():
                traced: Any = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(path))
            return
        part = Path(temporary, "encoder.onnx")
        torch.onnx.export(
            network, (example,), str(part), input_names=["pixels"],
            output_names=list(OUTPUTS[: 2 if spec.dims else 1]), dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("pictures")},), external_data=False, verbose=False,
        )  # fmt: skip
        path.write_bytes(part.read_bytes())


def _graph(folder: Path, spec: EncoderSpec, target: str) -> Callable[[Pixels], Sequence[Any]]:
    if target == "openvino":
        return runner_of(folder, spec, "openvino")
    if target == "torchscript":
        traced = torch.jit.load(str(folder / "encoder.pt"))  # type: ignore[no-untyped-call]
        return lambda pixels: [part.numpy() for part in traced(torch.from_numpy(pixels))]
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("--check needs the extra: pip install 'udmsh-pl[export]'") from error
    file, providers = str(folder / "encoder.onnx"), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(file, providers=providers)
    return lambda pixels: list(session.run(None, {"pixels": pixels}))
