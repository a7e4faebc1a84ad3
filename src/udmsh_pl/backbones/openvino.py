"""OpenVINO: a network becomes a graph, and a graph runs batches on all cores of a CPU."""

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

# without it the converter reports nothing to Intel, which took seconds for each conversion
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

CHUNK = 8  # pictures at a time stay in a CPU's caches: 1.6 times faster than 64
MOST_COMPILED = 16  # graphs kept in the cache, 17 MB each


def has_openvino() -> bool:
    """Whether OpenVINO is installed (extra ``udmsh-pl[extract]``)."""
    return find_spec("openvino") is not None


def import_openvino() -> None:
    """Import OpenVINO, where it is installed, without its converter, for a process that converts
    nothing: its telemetry's HTTP client would take a fifth of a search from the command line.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    with suppress(ImportError):  # torch does its work then
        import openvino  # noqa: F401


@cache
def openvino_core() -> Any:
    """The process's ``openvino.Core``, which is never destroyed; ImportError without OpenVINO.

    OpenVINO's CPU plugin gives the thread that makes it a stack for signals and puts an older one
    back when it is destroyed. After several cores that one may be freed memory, and the next signal
    that Python handles (a data loader's worker that ends, Ctrl-C) ends the process.
    """
    import openvino

    return openvino.Core()


def convert(network: "nn.Module", side: int, outputs: Sequence[str] = ()) -> Any:
    """OpenVINO's model of a network (in eval mode, on the CPU) from pictures, ``uint8 [B, 3, side,
    side]``, to a tuple of tensors, named ``outputs``.
    """
    import openvino
    import torch

    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    with warnings.catch_warnings():
        # tracing warns of shape checks, which one network always passes alike
        warnings.simplefilter("ignore")
        # convert_model traces too, and then checks it: three more passes
        trace: Any = torch.jit.trace
        traced = trace(network, example, check_trace=False)
        model = openvino.convert_model(traced, example_input=example)
    model.reshape([-1, 3, side, side])
    for output, name in zip(model.outputs, outputs, strict=False):
        output.get_tensor().set_names({name})
    model.inputs[0].get_tensor().set_names({"pixels"})
    return model


class Graph:
    """A model, compiled for single pictures and for batches when the first of them comes.

    Blocks of a batch run in as many requests as the CPU takes well, in turn, each with its own few
    pictures: all cores in one small layer would wait for each other. Without Python callbacks
    (AsyncInferQueue): a thread of OpenVINO that waits for the interpreter, while the interpreter
    waits for the end of the model's threads, hangs for ever.

    Args:
        model: of :func:`convert`, or a path
        streams: requests at a time, for batches alone; None for what OpenVINO finds best
        compiled: folder that keeps compiled graphs, which nobody else may write to
    """

    def __init__(
        self, model: Any, streams: int | None = None, compiled: Path | None = None
    ) -> None:
        self.model, self.streams = str(model) if isinstance(model, Path) else model, streams
        self._options = {"INFERENCE_PRECISION_HINT": "f32"}
        self._compiled: dict[bool, Any] = {}
        if compiled is not None:
            self._options["CACHE_DIR"] = str(compiled)
            with suppress(OSError):  # another process does the same, or may not
                kept = sorted(compiled.glob("*.blob"), key=lambda path: path.stat().st_atime)
                for path in kept[:-MOST_COMPILED]:  # OpenVINO never removes them
                    path.unlink()

    def prepare(self, pictures: int) -> Any:
        """Compile for batches of this many pictures, where that has not been done."""
        many = self.streams is not None or pictures > CHUNK
        if many not in self._compiled:
            hint = {"PERFORMANCE_HINT": "THROUGHPUT" if many else "LATENCY"}
            own = hint if self.streams is None else {"NUM_STREAMS": str(self.streams)}
            compile_model = openvino_core().compile_model
            self._compiled[many] = compile_model(self.model, "CPU", self._options | own)
        return self._compiled[many]

    def __call__(self, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """One array ``[B, ...]`` an output, of ``pixels`` uint8 [B, 3, S, S], B at least 1."""
        model = self.prepare(len(pixels))
        blocks = [pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK)]
        most = model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        requests = [model.create_infer_request() for _ in range(min(most, len(blocks)))]
        answers: list[list[NDArray[Any]]] = []

        def take(request: Any) -> None:
            request.wait()
            places = range(len(model.outputs))
            answers.append([request.get_output_tensor(place).data.copy() for place in places])

        for number, block in enumerate(blocks):
            request = requests[number % len(requests)]
            if number >= len(requests):
                take(request)
            request.start_async({0: block})
        for number in range(len(blocks) - len(requests), len(blocks)):
            take(requests[number % len(requests)])
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]
