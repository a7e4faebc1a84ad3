"""Pictures of an index encoded on a Ray cluster (extra ``udmsh-pl[cluster]``), a part of them a
task. Names travel there; codes, features and thumbnails go to the index's folder, which lies, like
the pictures, on a disk that all nodes share.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from udmsh_pl.errors import InputError
from udmsh_pl.runs.on_ray import check_marks, connected, each, use_cores
from udmsh_pl.search.build import Broken, Part, encode_part
from udmsh_pl.search.encoder import HashEncoder
from udmsh_pl.search.segment import Segment

Made = tuple[Segment | None, Broken]


def encode_on(address: str, parts: Sequence[Part]) -> Iterator[Made]:
    """Encode parts on the cluster of an address; gives what became of each, in their order.

    Args:
        address: ``auto`` for the cluster of this machine, or ``host:port``
        parts: of one index

    Raises:
        InputError: no cluster, a node that does not see the files, or a part that failed twice.
    """
    if not parts:
        return
    found: dict[int, Made] = {}
    with connected(address, [parts[0].segments.parent]) as marks:
        seen = (*marks, str(parts[0].root / parts[0].names[0]))
        with tqdm(total=len(parts), unit="part", desc="encode") as bar:
            for number, made, why in each(_encode, [(seen, part) for part in parts]):
                if why is not None:
                    raise InputError(f"pictures could not be encoded; run it again. {why}")
                found[number] = made
                bar.update()
    yield from (made for _, made in sorted(found.items()))


def _encode(seen: tuple[str, ...], part: Part, cores: int) -> Made:
    """In a task: one part."""
    check_marks(seen)
    use_cores(cores)
    return encode_part(part, _encoder(part.encoder))


@lru_cache(maxsize=1)  # a worker does many parts
def _encoder(folder: Path) -> HashEncoder:
    return HashEncoder(folder)
