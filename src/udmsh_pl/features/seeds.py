"""Seeds that are functions of what they are for: a resumed or shared run draws the same numbers."""

import os


def seed_of(*facts: int) -> int:
    """A seed for torch that depends on the run's seed and on ``facts``, such as epoch and row."""
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    for fact in facts:
        seed = (seed * 1_000_003 + fact) % 2**63
    return seed
