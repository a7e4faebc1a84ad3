"""Other rankings by codes, against loops over every picture."""

from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.features.teacher import TrainFeatures
from udmsh_pl.models import UDMSHPlus
from udmsh_pl.retrieval import pack_codes
from udmsh_pl.runs import rankings

QUERIES, COUNT, BITS, NEAREST = 70, 90, 6, 12  # more queries than a block; codes that tie


@pytest.fixture(scope="module")
def learned() -> Any:
    """A method with features of queries and database, logits of both, and labels."""
    draw = np.random.default_rng(3)
    groups = draw.integers(4, size=QUERIES + COUNT)
    centres = draw.standard_normal((4, 2 * 1280))
    rows = np.float16(centres[groups] + 2 * draw.standard_normal((len(groups), 2 * 1280)))
    features = [
        {"global_feature": own[:, :1280], "feature_map": own[:, 1280:].reshape(-1, 1280, 1, 1)}
        for own in (rows[:QUERIES], rows[QUERIES:])
    ]
    torch.manual_seed(0)
    model = UDMSHPlus(bits=BITS, hidden=8, dims=16, grid=1)
    model.load_teacher(model.fit_teacher(TrainFeatures(features[1])))
    model.eval()
    with torch.inference_mode():
        logits = [
            model.logits({k: torch.from_numpy(v).float() for k, v in own.items()}).numpy()
            for own in features
        ]
    labels = np.eye(4, dtype=bool)[groups]
    return model, features, logits, (labels[:QUERIES], labels[QUERIES:])


def mean_precision(order: np.ndarray, relevant: np.ndarray, k: int) -> float:
    hits = [bool(relevant[row]) for row in order[:k]]
    precisions = [sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit]
    return sum(precisions) / max(len(precisions), 1)


def test_the_query_keeps_its_real_values(learned: Any) -> None:
    logits, labels = learned[2:]
    products = logits[0] @ np.where(logits[1] >= 0, 1, -1).T
    orders = [sorted(range(COUNT), key=lambda row, own=own: (-own[row], row)) for own in products]
    assert ranked("asymmetric", learned) == expected(orders, labels)


@pytest.mark.parametrize("shortlist", [NEAREST, COUNT + 5])
def test_the_feature_orders_the_nearest_codes_alone(learned: Any, shortlist: int) -> None:
    model, features, logits, labels = learned
    with torch.inference_mode():
        fused = [
            model.encoder.fuse(*(torch.from_numpy(own[k]).float() for k in own)).numpy()
            for own in features
        ]
    eights = [np.round(one / np.abs(one).max(1, keepdims=True) * 127) for one in fused]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in eights]
    apart = ((logits[0] >= 0)[:, None] != (logits[1] >= 0)[None]).sum(2)
    orders = []
    for query, distances in zip(unit[0], apart, strict=True):
        last = sorted(distances)[min(shortlist, COUNT) - 1]
        alike = 0.8 * unit[1] @ query + 0.2 * (1 - 2 * distances / BITS)
        orders.append(
            sorted(
                range(COUNT),
                key=lambda row: (
                    (0, -alike[row], 0, row)
                    if distances[row] <= last
                    else (1, distances[row], 0, row)
                ),
            )
        )
    found = ranked("two-stages", learned, shortlist)
    assert found == expected(orders, labels, abs=5e-3)  # float16 on the way to small integers
    beyond = any((distances <= sorted(distances)[NEAREST - 1]).sum() < COUNT for distances in apart)
    assert beyond, "no query has codes beyond the shortlist"


def ranked(kind: str, learned: Any, nearest: int = NEAREST) -> Any:
    model, features, logits, labels = learned
    names = ("query_codes", "database_codes")
    codes = {name: pack_codes(own) for name, own in zip(names, logits, strict=True)}
    return rankings.rank(kind, model, tuple(features), codes, labels, [1, 10, None], nearest)


def expected(orders: list[Any], labels: Any, abs: float = 1e-6) -> Any:
    relevant = (labels[0].astype(int) @ labels[1].T.astype(int)) > 0
    means = {
        k: np.mean(
            [
                mean_precision(np.array(order), own, k or COUNT)
                for order, own in zip(orders, relevant, strict=True)
            ]
        )
        for k in (1, 10, None)
    }
    return pytest.approx(means, abs=abs)
