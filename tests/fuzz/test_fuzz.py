"""A few thousand damaged files; the whole run is ``python -m tests.fuzz --count 500000``."""

import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import readers
from tests.fuzz.__main__ import run
from tests.fuzz.mutate import mutated
from tests.fuzz.worker import problem_of
from udmsh_pl.errors import InputError


def test_damage_is_decided_by_the_generator() -> None:
    content, other = bytes(range(200)), b"x" * 50
    first, again = (mutated(content, other, np.random.default_rng(7)) for _ in range(2))
    assert first == again
    assert len({mutated(content, other, np.random.default_rng(n)) for n in range(50)}) > 45


def wrong_error(path: Path) -> str:
    raise KeyError("codes")


def two_lines(path: Path) -> str:
    raise InputError("one\ntwo")


def slow(path: Path) -> str:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return "whole"


def hungry(path: Path) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # that other tests have left
    return "whole" if np.ones(30_000_000 + peak // 8).sum() else ""


@pytest.mark.parametrize(
    ("reader", "problem"),
    [
        (wrong_error, "KeyError"),
        (two_lines, "more than one line"),
        (slow, "took"),
        (hungry, "grew by"),
        (lambda path: "other", "altered data was taken for good"),
        (lambda path: "whole", ""),
    ],
)
def test_each_kind_of_failure_is_one(tmp_path: Path, reader: readers.Reader, problem: str) -> None:
    # the first touch of a large array is slow by itself
    most_seconds, most_growth = (60, 100_000) if reader is hungry else (0.1, 10**9)
    path = tmp_path / "a.npz"
    path.write_bytes(b"damaged")
    case = path, b"sound", b"damaged", {b"sound": "whole"}, Counter()
    found = problem_of(".npz", reader, *case, most_seconds, most_growth)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.mark.slow
def test_a_few_thousand_damaged_files() -> None:
    assert run(4000, 1, list(readers.READERS)) == []
