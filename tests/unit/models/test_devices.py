"""Every objective on a GPU that is not there: fake tensors on ``cuda`` find what is elsewhere."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from udmsh_pl import baselines
from udmsh_pl.baselines.sdc import beta_quantiles
from udmsh_pl.data.batches import FeatureRows
from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus

ROWS, DIM = 24, 512
TINY: dict[str, Any] = {
    "bits": 8, "backbone": "resnet10t", "weights": "random", "hidden": 16,
}  # fmt: skip
METHODS: dict[str, tuple[type[HashingModule], dict[str, Any]]] = {
    "udmsh": (UDMSH, {}),
    "cosine": (UDMSH, {"levels": "graded", "least_weight": None}),
    "confidence": (
        UDMSH,
        {"confidence": True, "levels": "hard", "batch_norm": True},
    ),
    "rotation": (UDMSH, {"isometry": "rotation", "levels": "cosine", "pooling": "gem"}),
    "pointwise": (UDMSH, {"isometry": "pointwise", "pooling": "attention"}),
    "udmsh-plus": (UDMSHPlus, {"dims": 8}),
    "plus-cosine": (UDMSHPlus, {"dims": 8, "teacher": "cosine", "least_weight": None}),
    "ssdh": (baselines.SSDH, {"centre": True}),
    "mls3rduh": (baselines.MLS3RDUH, {"cosine_share": 0.2, "manifold_share": 0.3}),
    "greedyhash": (baselines.GreedyHash, {"centre": True}),
    "bihalf": (baselines.BiHalf, {"centre": True}),
    "cibhash": (baselines.CIBHash, {"sample": True}),
    "sdc": (baselines.SDC, {}),
    "sdc-views": (baselines.SDC, {"contrastive_weight": 1.0, "branches": "dual"}),
}


@pytest.fixture(autouse=True)
def fake_cuda() -> None:
    """Skips where this torch asks for a driver though nothing is computed (2.6 does)."""
    if torch.cuda.is_available():
        return
    try:
        with FakeTensorMode():
            torch.empty(1, device="cuda") + torch.ones(1).to("cuda")
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} has no fake tensors on cuda here: {error}"[:200])


class Crossings(TorchDispatchMode):
    """Notes each copy between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if "copy" in str(func) and isinstance(found, Tensor):
            place = {one.device.type for one in (*args, found) if isinstance(one, Tensor)}
            self.seen.extend([str(func)] if len(place) > 1 else [])
        return found


def stored() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    clean = generator.random((ROWS, DIM)) ** 4
    maps = generator.random((ROWS, DIM, 2, 2))
    arrays = {"global_feature": clean, "feature_map": maps}
    arrays |= {"views": np.stack([clean, clean[::-1]], 1), "view_maps": np.stack([maps, maps], 1)}
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def put_on(value: Any, move: Any) -> Any:
    """A tensor, or those in a dict, moved; anything else as it is."""
    if isinstance(value, nn.Parameter):
        return nn.Parameter(move(value).detach(), requires_grad=value.requires_grad)
    if isinstance(value, Tensor):
        return move(value)
    return (
        {key: put_on(one, move) for key, one in value.items()} if isinstance(value, dict) else value
    )


@pytest.mark.parametrize("name", METHODS)
def test_an_objective_stays_on_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, own = METHODS[name]
    model = kind(**TINY, **own).train()
    features = TrainFeatures(stored())
    model.load_teacher(model.fit_teacher(features))
    structure = getattr(model, "structure", None)
    assert structure is None or structure.half_gaussians  # numbers from here on
    labels = np.zeros((ROWS, 1), dtype=bool)
    batch = FeatureRows(labels, model.train_rows(features)).__getitems__(list(range(ROWS)))
    beta_quantiles.cache_clear()
    with FakeTensorMode() as mode:

        def move(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor).to("cuda")

        for module in model.modules():
            module._parameters = put_on(module._parameters, move)
            module._buffers = put_on(module._buffers, move)
            for key, value in list(vars(module).items()):
                if not key.startswith("_"):
                    setattr(module, key, put_on(value, move))
        monkeypatch.setattr(kind, "device", torch.device("cuda"))
        here = put_on(batch, move)
        torch.stack(
            list(model.objective(model.teach(here)).values())
        ).sum()  # the first step of an epoch
        with Crossings() as crossings:
            loss = torch.stack(list(model.objective(model.teach(here)).values())).sum()
    beta_quantiles.cache_clear()
    assert loss.device.type == "cuda"
    assert not crossings.seen


def test_a_tensor_left_behind_is_found() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.empty(2, device="cuda") + torch.empty(2)
    with FakeTensorMode(), Crossings() as crossings:
        torch.empty(2).to("cuda")
    assert crossings.seen
