"""Codes do not depend on the number of threads: methods train to the same bits on any.

NSH, whose lists are a batched product that torch shares as it likes, does not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from tests.cached import CachedFeatures

from udmsh_pl import baselines
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus

ROWS, BATCH = 600, 300  # large enough that torch shares the work of a step
METHODS: dict[str, tuple[type[HashingModule], dict[str, Any]]] = {
    "udmsh": (UDMSH, {"batch_norm": True, "confidence": True}),
    "cosine": (UDMSH, {"levels": "graded", "least_weight": None}),
    "plus": (UDMSHPlus, {}),
    "sdc": (baselines.SDC, {"contrastive_weight": 0.1}),
    "ssdh": (baselines.SSDH, {}),
    "mls3rduh": (baselines.MLS3RDUH, {}),
    "cibhash": (baselines.CIBHash, {}),
    "bihalf": (baselines.BiHalf, {}),
    "greedyhash": (baselines.GreedyHash, {}),
    "cimon": (baselines.CIMON, {}),
    "wch": (baselines.WCH, {}),
    "udth": (baselines.UDTH, {}),
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", METHODS)
def test_the_same_bits_on_one_thread_and_on_three(name: str, tmp_path: Path) -> None:
    kind, own = METHODS[name]
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = kind(bits=16, backbone="resnet10t", weights="random", **own)
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, CachedFeatures(ROWS, BATCH, 6, tmp_path))
        assert trainer.global_step == ROWS // BATCH
        found.append(model.state_dict())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
