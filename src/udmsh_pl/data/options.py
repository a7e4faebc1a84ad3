"""Options that every data module shares, typed for ``**options: Unpack[DataOptions]``.

Defaults and explanations are :class:`udmsh_pl.data.base.RetrievalDataModule`'s.
"""

from pathlib import Path
from typing import TypedDict

from udmsh_pl.backbones.pixels import Runner


class DataOptions(TypedDict, total=False):
    """All of them."""

    batch_size: int
    num_workers: int
    val_queries: int
    image_size: int | None
    cache_dir: Path
    grid: int
    views: int
    strict: bool
    extractor: Runner
    backbone: str
    weights: str | None
    finetune: bool
    train_arrays: tuple[str, ...] | None
