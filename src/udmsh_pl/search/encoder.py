"""``HashEncoder``: pictures of any kind become packed codes and re-rank features.

It runs OpenVINO's graph where there is one, else torch. The decoder is imported with the first
picture, while the network loads.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.backbones.openvino import CHUNK, Graph, has_openvino
from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file
from udmsh_pl.search.hub import cache_folder, fetch, is_hub_id, push
from udmsh_pl.search.spec import FILE, GRAPH, WEIGHTS, EncoderSpec, check_files, read_spec
from udmsh_pl.search.store import MANIFEST, read_manifest

Runner = Literal["auto", "torch", "openvino"]
Pixels = NDArray[np.uint8]  # [B, 3, S, S]
Encoded = tuple[NDArray[np.uint8], NDArray[np.int8]]  # codes [B, bytes], features [B, d]
Run = Callable[[Pixels], Encoded]

BATCH = 64


@dataclass(frozen=True, eq=False)
class Codes:
    """What an encoder says of N pictures."""

    names: list[str]  # the path of each, or #row where it came without one
    codes: NDArray[np.uint8]  # [N, ceil(K / 8)], as udmsh_pl.retrieval.pack_codes packs them
    features: NDArray[np.int8]  # [N, d]; their cosines compare pictures more finely than codes

    def __len__(self) -> int:
        return len(self.names)


class HashEncoder:
    """A trained hash function in the folder that ``udmsh export`` or ``udmsh index`` wrote.

    The first picture loads the network; files that it is loaded from are checked then.
    """

    def __init__(self, folder: Path, runner: Runner = "auto") -> None:
        self.folder, self.spec, self.runner = folder, read_spec(folder), runner
        self._run: Run | None = None
        self._loading: Future[Run] | None = None
        self._wanted = False  # a picture waits for the network

    @classmethod
    def load(cls, source: Path | str, runner: Runner = "auto") -> "HashEncoder":
        """Open a checkpoint (``.ckpt``), an export's folder, an index's, or ``owner/name`` of the
        Hugging Face hub.

        A checkpoint, or what the hub has, becomes a folder in the user's cache first, once.

        Raises ``InputError``: none of these, damaged, or of a method that only runs in training.
        """
        path = Path(source).expanduser()
        if not path.exists() and is_hub_id(str(source)):
            return cls.from_pretrained(str(source), runner=runner)
        if (path / MANIFEST).is_file():
            return cls.of_index(path, runner)
        if (path / FILE).is_file():
            return cls(path, runner)
        if path.is_dir():
            raise InputError(f"{path} holds no encoder; give a .ckpt or what `udmsh export` wrote")
        from udmsh_pl.search.checkpoint import read_checkpoint
        from udmsh_pl.search.graph import write_network

        network, spec = read_checkpoint(path)
        folder = cache_folder() / "encoders" / sha256_file(path)[:16]
        if not (folder / FILE).is_file():
            write_network(network, spec, folder)
        return cls(folder, runner)

    @classmethod
    def of_index(cls, path: Path, runner: Runner = "auto") -> "HashEncoder":
        """Open an index's encoder."""
        folder = path.expanduser()
        return cls(folder / read_manifest(folder).encoder, runner)

    @classmethod
    def from_pretrained(
        cls, name: str, revision: str | None = None, token: str | None = None,
        runner: Runner = "auto",
    ) -> "HashEncoder":  # fmt: skip
        """Open a folder, or ``owner/name`` of the hub, see :func:`udmsh_pl.search.hub.fetch`."""
        if Path(name).is_dir():
            return cls.load(name, runner)
        return cls(fetch(name, revision, token), runner)

    def push_to_hub(self, name: str, private: bool = False, token: str | None = None) -> str:
        """Upload weights, specification and a model card, see :func:`udmsh_pl.search.hub.push`."""
        check_files(self.folder, self.spec, [WEIGHTS])
        return push(self.folder, name, self.spec, private, token)

    def prepare(self) -> None:
        """Begin to load the network in a thread, while a first picture is read and decoded.

        Where that takes longer, the network is run once: the next run takes a fraction of the time.
        """

        def load() -> Run:
            run, side = runner_of(self.folder, self.spec, self.runner), self.spec.image_size
            if not self._wanted:
                run(np.zeros((1, 3, side, side), np.uint8))
            return run

        pool = ThreadPoolExecutor(1)
        self._loading = pool.submit(load)
        pool.shutdown(wait=False)

    @property
    def bits(self) -> int:
        """Code length K."""
        return self.spec.bits

    def encode(self, pictures: Sequence[Any], progress: bool = False) -> Codes:
        """Encode pictures in batches.

        Args:
            pictures: paths, open files or their bytes, PIL images, uint8 arrays [H, W, 3] or
                [H, W], or uint8 tensors [3, H, W]; kinds may be mixed, and all give the same code
                for the same picture
            progress: show a bar on stderr

        Raises ``InputError``: a picture cannot be read, or is of none of these kinds.
        """
        from udmsh_pl.images.ahead import in_order

        names = [
            str(picture) if isinstance(picture, str | Path) else f"#{row}"
            for row, picture in enumerate(pictures)
        ]
        pixels = in_order(lambda pair: self._pixels(*pair), zip(pictures, names, strict=True))
        codes = [np.empty((0, self.spec.code_bytes), np.uint8)]
        features = [np.empty((0, self.spec.dims), np.int8)]
        for code, feature in self.encode_pixels(bar(pixels, len(names)) if progress else pixels):
            codes.append(code)
            features.append(feature)
        return Codes(names, np.concatenate(codes), np.concatenate(features))

    def encode_pixels(self, pixels: Iterator[NDArray[np.uint8]]) -> Iterator[Encoded]:
        """Codes and features of prepared pictures, uint8 [3, S, S] each, batch by batch."""
        from udmsh_pl.images.ahead import batched

        for batch in batched(pixels, BATCH):
            if self._run is None:
                own, self._wanted = (self.folder, self.spec, self.runner), True
                self._run = self._loading.result() if self._loading else runner_of(*own)
            yield self._run(np.stack(batch))

    def save(self, folder: Path | str) -> None:
        """Copy the encoder to another folder; ``encoder.json`` is last: half a copy is none."""
        check_files(self.folder, self.spec, self.spec.files)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in [*self.spec.files, FILE]:
            shutil.copyfile(self.folder / name, target / name)

    def _pixels(self, picture: Any, name: str) -> NDArray[np.uint8]:
        from udmsh_pl.images.decode import UnreadablePicture, decode, square

        side = self.spec.image_size
        try:
            return square(decode(picture, at_least=2 * side), side)
        except UnreadablePicture as error:
            raise InputError(f"{name}: not a readable picture ({error.reason})") from error
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


def bar(items: Iterator[Any], total: int, what: str = "encode") -> Iterator[Any]:
    """The same items, with a bar on stderr that shows the time left."""
    from tqdm import tqdm

    every = 0.5 if sys.stderr.isatty() else 10  # seconds; a log file stays short
    yield from tqdm(items, total=total, unit="img", desc=what, mininterval=every)


def runner_of(folder: Path, spec: EncoderSpec, runner: Runner = "auto") -> Run:
    """A function from pixels to codes and features, of an encoder's folder: by ``openvino`` (extra
    ``udmsh-pl[extract]``), ``torch``, or ``auto``, OpenVINO where it and the folder's graph are
    there.

    Raises ``InputError``: there is no OpenVINO, or no graph for it; a file was altered.
    """
    there = has_openvino()
    if runner != "torch" and there and all(name in spec.files for name in GRAPH):
        return _by_openvino(folder, spec)
    if runner == "openvino":
        mend = (
            "use `udmsh export --format openvino`, or index anew"
            if there
            else "pip install 'udmsh-pl[extract]'"
        )
        raise InputError(f"{folder} cannot run on OpenVINO here; {mend}")
    return _by_torch(folder, spec)


def _by_openvino(folder: Path, spec: EncoderSpec) -> Run:
    file, weights = GRAPH
    check_files(folder, spec, [file])
    with ThreadPoolExecutor(1) as pool:  # a search from the command line waits for both
        checked = pool.submit(check_files, folder, spec, [weights])
        try:
            # the user's own cache: compiled code is never a stranger's
            graph = Graph(folder / file, compiled=cache_folder() / "openvino")
            graph.prepare(1)
        finally:  # the compiler's own words on altered weights do not help
            checked.result()
    return lambda pixels: _both(graph(pixels))


def _both(answers: Sequence[NDArray[Any]]) -> Encoded:
    """Codes and features; features of no length where the encoder has none."""
    codes, *features = answers
    return codes, features[0] if features else np.empty((len(codes), 0), np.int8)


def _by_torch(folder: Path, spec: EncoderSpec) -> Run:
    import torch

    from udmsh_pl.search.graph import read_network

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = read_network(folder, spec).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = CHUNK if device == "cpu" else 256

    def run(pixels: Pixels) -> Encoded:
        made = []
        with torch.inference_mode():
            for block in torch.split(torch.from_numpy(pixels), size):
                answer = network(block.to(device, memory_format=torch.channels_last))
                made.append([part.cpu().numpy() for part in answer])
        return _both([np.concatenate(parts) for parts in zip(*made, strict=True)])

    return run
