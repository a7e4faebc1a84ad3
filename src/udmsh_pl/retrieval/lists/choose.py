"""How many lists a search must look into, measured on the codes themselves."""

from dataclasses import replace

import numpy as np

from udmsh_pl.retrieval.lists.inverted import Facts, InvertedLists

QUERIES = 200  # codes of the collection that are searched for
MOST_LOOKED_AT = 100_000_000_000  # codes, in all, for the exact answers: about a minute
NEAREST = 100  # of which the recall is
STEP = 1.25  # from one number of probes that is tried to the next


def choose_probes(lists: InvertedLists, recall: float) -> Facts:
    """The facts of ``lists`` with the least number of probes whose recall, less one standard error,
    is the wanted one, and with that recall.

    Exact answers come from looking into all lists. A code finds itself; that does not count. Where
    several codes are as near as the hundredth, any of them is right.
    """
    number = max(20, min(QUERIES, MOST_LOOKED_AT // len(lists)))
    queries = list(lists.sample(number))
    count = min(NEAREST + 1, len(lists))
    everything = lists.facts.lists
    furthest = [int(lists.search(code, count, everything)[0][count - 1]) for code in queries]
    probes = 1
    while True:
        found = []
        for code, far in zip(queries, furthest, strict=True):
            right = int((lists.search(code, count, probes)[0][:count] <= far).sum())
            found.append((right - 1) / max(count - 1, 1) if count > 1 else 1.0)
        mean, error = float(np.mean(found)), float(np.std(found) / np.sqrt(number))
        if mean - error >= recall or probes >= everything:
            return replace(lists.facts, probes=probes, recall=round(mean, 5), wanted=recall)
        probes = min(everything, max(probes + 1, int(probes * STEP)))
