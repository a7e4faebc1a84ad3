"""Runs an encoder's folder on pixels: OpenVINO's graph where there is one, else torch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.backbones.openvino_core import openvino_core
from udmsh_pl.errors import InputError
from udmsh_pl.search.spec import EncoderSpec, cache_folder, check_files

Runner = Literal["auto", "torch", "openvino"]
Pixels = NDArray[np.uint8]  # [B, 3, S, S]
Encoded = tuple[NDArray[np.uint8], NDArray[np.int8]]  # codes [B, bytes], features [B, d]
Run = Callable[[Pixels], Encoded]
GRAPH = ("encoder.xml", "encoder.bin")
CHUNK = 8  # pictures at a time stay in a CPU's caches
MOST_COMPILED = 16  # graphs kept in the cache, 17 MB each


def runner_of(folder: Path, spec: EncoderSpec, runner: Runner = "auto") -> Run:
    """A function from pixels to codes and features.

    Args:
        folder: the encoder's folder
        spec: its specification
        runner: ``openvino`` needs the extra ``udmsh-pl[extract]``; ``auto`` takes it where it is
            installed and the folder has its graph

    Raises:
        InputError: OpenVINO is asked for, but not installed, or the folder has no graph for it; a
            file was altered.
    """
    there = find_spec("openvino") is not None
    has_graph = all(name in spec.files for name in GRAPH)
    if runner == "openvino" and not (there and has_graph):
        mend = "export or index anew" if there else "pip install 'udmsh-pl[extract]'"
        raise InputError(f"{folder} cannot run on OpenVINO here; {mend}")
    if runner != "torch" and there and has_graph:
        return _openvino(folder, spec)
    return _torch(folder, spec)


def _openvino(folder: Path, spec: EncoderSpec) -> Run:
    graph, weights = GRAPH
    check_files(folder, spec, [graph])
    with ThreadPoolExecutor(1) as pool:  # a search from the command line waits for both
        checked = pool.submit(check_files, folder, spec, [weights])
        try:
            return _compiled(folder, spec)
        finally:  # the compiler's own word on altered weights is not the one to tell
            checked.result()


def _compiled(folder: Path, spec: EncoderSpec) -> Run:
    core = openvino_core()
    compiled = cache_folder() / "openvino"  # the user's own: compiled code is never a stranger's
    _drop_oldest(compiled)
    path = str(folder / GRAPH[0])
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": str(compiled)}
    one = core.compile_model(path, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
    many: list[Any] = []  # compiled when the first batch comes; a single search needs one only

    def run(pixels: Pixels) -> Encoded:
        if len(pixels) <= CHUNK:
            return _both([answer.copy() for answer in one([pixels]).values()], spec)
        if not many:
            streams = {"PERFORMANCE_HINT": "THROUGHPUT"}
            many.append(core.compile_model(path, "CPU", options | streams))
        return _in_streams(many[0], pixels, spec)

    return run


def _drop_oldest(folder: Path) -> None:
    """OpenVINO never removes what it has compiled."""
    with suppress(OSError):  # another process does the same, or may not
        kept = sorted(folder.glob("*.blob"), key=lambda path: path.stat().st_atime)
        for path in kept[:-MOST_COMPILED]:
            path.unlink()


def _in_streams(model: Any, pixels: Pixels, spec: EncoderSpec) -> Encoded:
    """Blocks in as many requests as the CPU takes well, in turn.

    Without Python callbacks (AsyncInferQueue): a thread of OpenVINO that waits for the interpreter,
    while the interpreter waits for the end of the model's threads, hangs for ever.
    """
    blocks = [pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK)]
    most = model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    requests = [model.create_infer_request() for _ in range(min(most, len(blocks)))]
    places = range(2 if spec.dims else 1)
    answers: list[Encoded] = []

    def take(request: Any) -> None:
        request.wait()
        answers.append(
            _both([request.get_output_tensor(place).data.copy() for place in places], spec)
        )

    for number, block in enumerate(blocks):
        request = requests[number % len(requests)]
        if number >= len(requests):
            take(request)
        request.start_async({0: block})
    for number in range(max(0, len(blocks) - len(requests)), len(blocks)):
        take(requests[number % len(requests)])
    codes, features = zip(*answers, strict=True)
    return np.concatenate(codes), np.concatenate(features)


def _both(answers: list[NDArray[Any]], spec: EncoderSpec) -> Encoded:
    """Codes and features; features of no length where the encoder has none."""
    if spec.dims:
        return answers[0], answers[1]
    return answers[0], np.empty((len(answers[0]), 0), np.int8)


def _torch(folder: Path, spec: EncoderSpec) -> Run:
    import torch

    from udmsh_pl.search.package import read_network

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = read_network(folder, spec).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = CHUNK if device == "cpu" else 256

    def run(pixels: Pixels) -> Encoded:
        codes, features = [], []
        with torch.inference_mode():
            for block in torch.split(torch.from_numpy(pixels), size):
                answer = network(block.to(device, memory_format=torch.channels_last))
                code, feature = _both([part.cpu().numpy() for part in answer], spec)
                codes.append(code)
                features.append(feature)
        return np.concatenate(codes), np.concatenate(features)

    return run
