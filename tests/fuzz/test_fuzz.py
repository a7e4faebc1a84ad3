"""A few thousand damaged files; the whole run is ``python -m tests.fuzz --count 500000``."""

import numpy as np
import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, SLOW


def test_damage_is_decided_by_the_generator() -> None:
    content, other = bytes(range(200)), b"x" * 50
    first, again = (mutated(content, other, np.random.default_rng(7)) for _ in range(2))
    assert first == again
    assert len({mutated(content, other, np.random.default_rng(n)) for n in range(50)}) > 45


@pytest.mark.slow
def test_a_few_thousand_damaged_files() -> None:
    quick = [kind for kind in READERS if kind not in SLOW]
    assert run(200 * len(quick), 1, quick) == []
    assert run(12, 1, [".mat"]) == []
