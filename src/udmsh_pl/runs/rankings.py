"""Other ways to rank by the codes of a learned method: rows of their own beside the codes'. *Ours*.

``asymmetric``: the query is the encoder's output before the sign, and its inner products with codes
rank the database. ``two-stages``: the nearest codes are ordered by a feature of at most 512 bytes,
as ``udmsh search`` does it; the other codes follow by distance.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from udmsh_pl.baselines.references import Labels, Values, inner_product_map, ranking_map
from udmsh_pl.features.fused import fused_rows
from udmsh_pl.features.store import Arrays
from udmsh_pl.models import HashingModule
from udmsh_pl.retrieval import unpack_codes
from udmsh_pl.search.graph import to_int8
from udmsh_pl.search.searching import SHORTLIST, reranked, shortlist
from udmsh_pl.search.spec import RERANK_DIMS

ENDINGS = {"asymmetric": " (asymmetric)", "two-stages": " (two stages)"}  # of a row's method


def rank(
    kind: str,
    model: HashingModule,
    features: tuple[Arrays, Arrays],
    codes: Mapping[str, NDArray[np.uint8]],
    labels: Labels,
    ks: Sequence[int | None],
    nearest: int = SHORTLIST,
) -> Values:
    """mAP@k of one of :data:`ENDINGS`.

    Args:
        kind: the way to rank
        model: the method, with the weights that the codes are of; for two stages one that fuses
            features
        features: cached ones of query and database, as the method reads them
        codes: ``query_codes`` and ``database_codes``, packed
        labels: bool [Q, L] and [N, L]
        ks: cut-offs; None is the whole database
        nearest: codes that the second stage orders
    """
    query, database = (codes[name] for name in ("query_codes", "database_codes"))
    if kind == "asymmetric":
        batch = {name: torch.from_numpy(np.float32(rows)) for name, rows in features[0].items()}
        with torch.inference_mode():
            logits = model.eval().logits(batch).numpy()
        signs = unpack_codes(database, model.bits).astype(np.float32)
        return inner_product_map(logits, signs, labels, ks)
    names, near = ("global_feature", "feature_map"), []
    with torch.inference_mode():
        for own in features:
            fused = fused_rows(model.encoder.fusion, *(own[name] for name in names)).float()
            near.append(to_int8(fused[:, :RERANK_DIMS]).numpy())

    def order(rows: slice) -> NDArray[np.int64]:
        ranked = []
        for code, feature in zip(query[rows], near[0][rows], strict=True):
            distances, first = shortlist(code, database, nearest)
            others = shortlist(code, database, len(database))[1][len(first) :]
            found = reranked(distances, first, model.bits, feature, near[1][first])[1]
            ranked.append(np.concatenate([found, others]))
        return np.stack(ranked)

    return ranking_map(order, labels, ks)
