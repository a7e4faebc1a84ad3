"""A screen is enough for a plan: one line for the seeds of a method and code length."""

import pytest

from udmsh_pl.reports.table_rows import Cell, Result
from udmsh_pl.runs.reproduce import Progress


def rows(cell: Cell, value: float, ties: str = "expected") -> list[Result]:
    facts = ("toy", "p", "ab", cell.method, "net", cell.bits, cell.seed)
    values = (value, value, value, 2.0, 1.0, 1.0, "0")
    return [Result(*facts, "map", "all", one, "retrieved", *values) for one in (ties, "id")]


def test_seeds_share_a_line_and_a_single_one_has_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = [Cell("itq", 16, seed) for seed in (0, 1, 2)] + [Cell("lsh", 16, 0)]
    progress = Progress(cells)
    progress.ends(cells[1], "ran", rows(cells[1], 0.5))
    progress.ends(cells[0], "was finished", rows(cells[0], 0.4))
    assert capsys.readouterr().out == ""
    progress.ends(cells[3], "was finished", rows(cells[3], 0.25))
    progress.ends(cells[2], "ran", rows(cells[2], 0.6))
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "[3/4] lsh, 16 bits, seed 0: mAP@ALL 0.250 (was finished)",
        "[4/4] itq, 16 bits, seeds 0 1 2: mAP@ALL 0.500 ± 0.100 (2.0 s a seed)",
    ]
