"""``encoder.json``: what an encoder is, and the checksums of the files beside it."""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file, sha256_json, write_text

FILE, WEIGHTS = "encoder.json", "encoder.safetensors"
GRAPH = ("encoder.xml", "encoder.bin")  # OpenVINO's
FORMAT = 1
MAX_JSON = 1 << 20  # bytes; no honest one is longer
# int8. On drawings 128 find .010 less at k = 1, 240 at most .008 less (*ours*)
RERANK_DIMS = 512

T = TypeVar("T")


@dataclass(frozen=True)
class EncoderSpec:
    """Everything about an encoder but its weights."""

    method: str  # class of the hash head: one of udmsh_pl.models, or SignEncoder
    arguments: dict[str, Any]  # constructor arguments of that class
    backbone: str
    weights: str  # what identifies the backbone's (udmsh_pl.backbones.weights_id)
    own_backbone: bool  # the backbone's weights lie in encoder.safetensors too
    image_size: int  # side of the square input in pixels
    mean: tuple[float, float, float]  # of each channel, in units of 0..1; it is subtracted
    std: tuple[float, float, float]  # of each channel; it is divided by
    grid: int  # the feature map is averaged to grid x grid positions
    bits: int  # code length K
    dims: int  # length of the re-rank feature; 0 where there is none
    note: str = ""  # how it came about, for people
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of each beside encoder.json

    @property
    def code_bytes(self) -> int:
        """Bytes of a packed code."""
        return (self.bits + 7) // 8


def write_json(path: Path, of_format: int, facts: Any) -> None:
    """Write a dataclass with its format and its checksum, whole or not at all."""
    plain = json.loads(json.dumps({"format": of_format} | asdict(facts)))
    write_text(path, json.dumps(plain | {"sha256": sha256_json(plain)}, indent=1) + "\n")


def read_json(
    path: Path, most: int, formats: Sequence[int], make: Callable[[dict[str, Any]], T], mend: str
) -> T:
    """What ``make`` makes of the object that :func:`write_json` wrote; InputError says ``mend``
    where the file is damaged, longer than ``most`` bytes, or ``make`` raises what Python does for
    damage.
    """
    try:
        if path.stat().st_size > most:
            raise ValueError("too long")
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] not in formats:
            known = " and ".join(map(str, formats))
            raise InputError(f"{path} has format {plain['format']}, not {known}; update udmsh-pl")
        if plain.pop("sha256") != sha256_json(plain):
            raise ValueError("its checksum differs")
        del plain["format"]
        return make(plain)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} was cut or altered ({error}); {mend}") from error


def write_spec(folder: Path, spec: EncoderSpec) -> None:
    """Write ``encoder.json``, the last file of an encoder's folder."""
    write_json(folder / FILE, FORMAT, spec)


def read_spec(folder: Path) -> EncoderSpec:
    """Read ``encoder.json``; raises InputError if it is absent, damaged, or of a newer format."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} is no encoder: it has no {FILE}; `udmsh export` writes one")
    return read_json(path, MAX_JSON, [FORMAT], _spec, "export or index anew")


def check_files(folder: Path, spec: EncoderSpec, names: Iterable[str]) -> None:
    """Compare files with their checksums before they are read; raises InputError if one differs."""
    paths = [folder / name for name in names]
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda path: path.is_file() and sha256_file(path), paths)
        for path, digest in zip(paths, sums, strict=True):
            if not digest or digest != spec.files.get(path.name):
                raise InputError(f"{path} is missing, cut or altered; export or index anew")


def _spec(plain: dict[str, Any]) -> EncoderSpec:
    spec = EncoderSpec(**plain | {name: tuple(plain[name]) for name in ("mean", "std")})
    limits = {"image_size": (1, 4096), "grid": (1, 64), "bits": (1, 1024), "dims": (0, 4096)}
    for name, (least, most) in limits.items():
        value = getattr(spec, name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} is {value!r}")
    for name in ("mean", "std"):
        numbers = getattr(spec, name)
        if len(numbers) != 3 or not all(isinstance(number, float | int) for number in numbers):
            raise ValueError(f"{name} is {numbers!r}")
    if not isinstance(spec.arguments, dict) or not isinstance(spec.files, dict):
        raise ValueError("arguments and files are no objects")
    for name in spec.files:
        if "/" in name or "\\" in name or name.startswith("."):
            raise ValueError(f"{name!r} is no name of a file beside it")
    return spec
