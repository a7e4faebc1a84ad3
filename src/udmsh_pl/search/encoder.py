"""``HashEncoder``: pictures of any kind become packed codes and re-rank features.

What reads pictures is imported when one comes: the network is loaded meanwhile.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.search.hub import is_hub_id
from udmsh_pl.search.runners import Encoded, Run, Runner, runner_of
from udmsh_pl.search.spec import FILE, cache_folder, check_files, read_spec
from udmsh_pl.search.store import MANIFEST, read_manifest

if TYPE_CHECKING:
    from PIL import Image

BATCH = 64


@dataclass(frozen=True, eq=False)
class Codes:
    """What an encoder says of N pictures.

    Args:
        names: the path of each picture, or ``#row`` where it came without one
        codes: uint8 [N, ceil(K / 8)], as :func:`udmsh_pl.retrieval.pack_codes` packs them
        features: int8 [N, d]; their cosines compare pictures more finely than codes
    """

    names: list[str]
    codes: NDArray[np.uint8]
    features: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.names)


class HashEncoder:
    """A trained hash function with its backbone and its way to prepare a picture.

    The first picture loads the network; files that it is loaded from are checked then.

    Args:
        folder: an encoder's folder, as ``udmsh export`` and ``udmsh index`` write it
        runner: ``auto``, ``openvino`` or ``torch``
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

        Raises:
            InputError: neither, damaged, or of a method that cannot be used outside of training.
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
        return cls(_from_checkpoint(path), runner)

    @classmethod
    def of_index(cls, path: Path, runner: Runner = "auto") -> "HashEncoder":
        """Open that of an index.

        Raises:
            InputError: no index, or damaged.
        """
        folder = path.expanduser()
        return cls(folder / read_manifest(folder).encoder, runner)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        revision: str | None = None,
        token: str | None = None,
        runner: Runner = "auto",
    ) -> "HashEncoder":
        """Open what :meth:`push_to_hub` wrote: ``owner/name`` of the hub, or a folder; see
        :func:`udmsh_pl.search.hub.fetch`.
        """
        if Path(name).is_dir():
            return cls.load(name, runner)
        from udmsh_pl.search.hub import fetch

        return cls(fetch(name, revision, token), runner)

    def push_to_hub(self, name: str, private: bool = False, token: str | None = None) -> str:
        """Upload weights (safetensors), specification and a card to ``owner/name`` of the hub; see
        :func:`udmsh_pl.search.hub.push`. Gives the address of the commit.
        """
        from udmsh_pl.search.card import card
        from udmsh_pl.search.hub import WEIGHTS, push

        check_files(self.folder, self.spec, [WEIGHTS])
        return push(self.folder, name, card(self.spec, WEIGHTS), private, token)

    def prepare(self) -> None:
        """Begin to load the network in a thread: a first picture is read and decoded meanwhile.

        Where that takes longer, the network is run once, which takes several times as long as the
        next.
        """
        pool = ThreadPoolExecutor(1)
        self._loading = pool.submit(self._warm)
        pool.shutdown(wait=False)

    def _warm(self) -> Run:
        run = runner_of(self.folder, self.spec, self.runner)
        if not self._wanted:
            side = self.spec.image_size
            run(np.zeros((1, 3, side, side), np.uint8))
        return run

    @property
    def bits(self) -> int:
        """Code length K."""
        return self.spec.bits

    def encode(
        self,
        pictures: "Sequence[Path | str | Image.Image | NDArray[np.uint8] | Any]",
        progress: bool = False,
    ) -> Codes:
        """Encode pictures in batches.

        Args:
            pictures: paths, PIL images, uint8 arrays [H, W, 3] or [H, W], or uint8 tensors
                [3, H, W]; kinds may be mixed
            progress: show a bar on stderr

        Raises:
            InputError: a picture cannot be read, or is of none of these kinds.
        """
        from udmsh_pl.search.pictures import in_order

        names = [_name(picture, row) for row, picture in enumerate(pictures)]
        pixels = in_order(lambda pair: self._pixels(*pair), zip(pictures, names, strict=True))
        found = list(self.encode_pixels(bar(pixels, len(names)) if progress else pixels))
        codes = np.concatenate(
            [np.empty((0, self.spec.code_bytes), np.uint8)] + [a for a, _ in found]
        )
        features = np.concatenate([np.empty((0, self.spec.dims), np.int8)] + [b for _, b in found])
        return Codes(names, codes, features)

    def encode_pixels(self, pixels: Iterator[NDArray[np.uint8]]) -> Iterator[Encoded]:
        """Codes and features of prepared pictures, uint8 [3, S, S] each, batch by batch."""
        batch: list[NDArray[np.uint8]] = []
        for one in pixels:
            batch.append(one)
            if len(batch) == BATCH:
                yield self._network()(np.stack(batch))
                batch.clear()
        if batch:
            yield self._network()(np.stack(batch))

    def _network(self) -> Run:
        if self._run is None:
            loading, self._wanted = self._loading, True
            own = self.folder, self.spec, self.runner
            self._run = loading.result() if loading else runner_of(*own)
        return self._run

    def save(self, folder: Path | str) -> None:
        """Copy the encoder to another folder; ``encoder.json`` is last: half a copy is none."""
        check_files(self.folder, self.spec, self.spec.files)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in [*self.spec.files, FILE]:
            shutil.copyfile(self.folder / name, target / name)

    def _pixels(self, picture: Any, name: str) -> NDArray[np.uint8]:
        from PIL import Image

        from udmsh_pl.images.decode import to_rgb
        from udmsh_pl.search.pictures import decode, read_bytes, square

        side = self.spec.image_size
        if isinstance(picture, str | Path):
            return decode(read_bytes(Path(picture)), name, side).pixels
        if isinstance(picture, Image.Image):
            return square(to_rgb(picture), side)
        array = picture.detach().cpu().numpy() if hasattr(picture, "detach") else picture
        if hasattr(picture, "detach") and array.ndim == 3:
            array = array.transpose(1, 2, 0)
        if getattr(array, "dtype", None) != np.uint8 or array.shape[2:] not in ((), (3,)):
            kind = f"{type(picture).__name__} {getattr(picture, 'shape', '')}".strip()
            raise InputError(
                f"picture {name} is a {kind}; give a path, a PIL image, a uint8 array [H, W, 3] or "
                "a uint8 tensor [3, H, W]"
            )
        return square(to_rgb(Image.fromarray(array)), side)


def _name(picture: Any, row: int) -> str:
    return str(picture) if isinstance(picture, str | Path) else f"#{row}"


def bar(items: Iterator[Any], total: int) -> Iterator[Any]:
    """The same items, with a bar on stderr."""
    from tqdm import tqdm

    every = 0.5 if sys.stderr.isatty() else 10  # seconds; a log file stays short
    yield from tqdm(items, total=total, unit="img", desc="encode", mininterval=every)


def _from_checkpoint(path: Path) -> Path:
    """The folder of a checkpoint in the user's cache, by the checkpoint's content."""
    from udmsh_pl.safe.files import sha256_file
    from udmsh_pl.search.learned import read_checkpoint
    from udmsh_pl.search.package import write_network

    network, spec = read_checkpoint(path)
    folder = cache_folder() / "encoders" / sha256_file(path)[:16]
    if not (folder / FILE).is_file():
        write_network(network, spec, folder)
    return folder
