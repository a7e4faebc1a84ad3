"""A run directory: ``results.csv`` and, for each cell, codes, per-query scores and a stamp.

The stamp, written last, says with which settings, features and split the cell was finished, and
holds checksums of what was kept: a cell whose stamp is another one, or whose rows or files were
altered, is run again. Reports read what lies here and score nothing again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.reports.results import Cell, Result, read_results, write_results
from udmsh_pl.retrieval.evaluation import RetrievalReport
from udmsh_pl.retrieval.ties import Cutoff
from udmsh_pl.safe.files import save_arrays, sha256_file, write_text
from udmsh_pl.safe.untrusted import check_archive

Codes = NDArray[np.uint8]
Stamp = Mapping[str, Any]
FILES = ("codes.npz", "scores.npz")  # of a cell that has codes


@dataclass(frozen=True)
class Scores:
    """What reports need of a cell beyond its rows.

    Args:
        average_precision: expected AP@k of each query, float64 [Q], by cut-off
        precision: mean precision within Hamming radius 0..K, float64 [K + 1]
        recall: mean recall, likewise
    """

    average_precision: dict[Cutoff, NDArray[np.float64]]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run.

    Args:
        path: the folder; it need not exist yet
    """

    path: Path

    @property
    def results_path(self) -> Path:
        """Where ``results.csv`` is."""
        return self.path / "results.csv"

    def folder(self, cell: Cell) -> Path:
        """Where a cell keeps its files."""
        return self.path / "cells" / cell.name

    def results(self) -> list[Result]:
        """All rows so far; none before the first cell is finished."""
        return read_results(self.results_path) if self.results_path.is_file() else []

    def rows(self, cell: Cell) -> list[Result]:
        """A cell's rows, if it was ever finished."""
        return [result for result in self.results() if result.cell == cell]

    def finished_at(self, cell: Cell) -> int:
        """When the cell was marked as finished, in nanoseconds; 0 when it was not."""
        try:
            return (self.folder(cell) / "done.json").stat().st_mtime_ns
        except OSError:
            return 0

    def finished(self, cell: Cell, stamp: Stamp, has_codes: bool = True) -> bool:
        """Whether the cell was finished with just these settings and all its files are there."""
        folder, (found, kept) = self.folder(cell), self._mark(cell)
        rows, files = self.rows(cell), FILES if cell.bits and has_codes else ()
        return (
            found == _plain(stamp)
            and all((folder / name).is_file() for name in files)
            and bool(rows)
            and kept in (None, self._kept(cell, rows))  # None: by a version that did not look
        )

    def begin(self, cell: Cell, stamp: Stamp) -> None:
        """Note what a cell is trained with; a job that was requeued goes on only under the same.

        SLURM's time limit lets Lightning leave ``hpc_ckpt_N.ckpt``, from which the next training in
        the folder would go on, whatever its settings.
        """
        folder, now = self.folder(cell), json.dumps(_plain(stamp))
        noted = folder / "begun.json"
        if not noted.is_file() or noted.read_text(encoding="utf-8") != now:
            self.forget_interrupted(cell)
        write_text(noted, now)

    def forget_interrupted(self, cell: Cell) -> None:
        """Remove the checkpoints of a job that was requeued."""
        for stale in self.folder(cell).glob("hpc_ckpt_*.ckpt"):
            stale.unlink(missing_ok=True)

    def keep(self, cell: Cell, stamp: Stamp, rows: Sequence[Result]) -> None:
        """Add a cell's rows to ``results.csv`` and mark the cell as finished.

        Rows first, the mark last: a kill between the two only repeats the cell. Several processes
        may keep cells of one run; a lock lets one write after the other, and nobody sees rows
        whose mark is still to come.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        mark = _plain(stamp) | {"kept": self._kept(cell, rows)}
        with self._lock():
            others = [result for result in self.results() if result.cell != cell]
            write_results(self.results_path, [*others, *rows])
            write_text(self.folder(cell) / "done.json", json.dumps(mark))

    def drop_stale(self, split_sha256: str) -> set[Cell]:
        """Leave out rows of cells that were scored on other lists of images, and rows that are not
        those that their cell's mark tells of; gives their cells.

        One table compares one split, and holds what was scored: such cells are run again when a
        plan asks for them.
        """
        with self._lock():
            results = self.results()
            by_cell: dict[Cell, list[Result]] = {}
            for result in results:
                by_cell.setdefault(result.cell, []).append(result)
            stale = {
                cell
                for cell, rows in by_cell.items()
                if {row.split_sha256 for row in rows} != {split_sha256}
                or not self._vouched(cell, rows)
            }
            if stale:
                kept = [result for result in results if result.cell not in stale]
                write_results(self.results_path, kept)
        return stale

    def save_scored(self, cell: Cell, arrays: Mapping[str, Any], report: RetrievalReport) -> None:
        """Keep codes and labels (``codes.npz``) and what reports need (``scores.npz``).

        Args:
            cell: what was scored
            arrays: ``query_codes``, ``database_codes`` uint8 [N, bytes], and their labels
            report: what evaluation found
        """
        folder = self.folder(cell)
        save_arrays(folder / "codes.npz", {"bits": np.int64(cell.bits), **arrays})
        precision, recall = report.precision_recall_curve()
        scores = {_key(k): values for k, values in report.expected_average_precision.items()}
        save_arrays(folder / "scores.npz", {"precision": precision, "recall": recall, **scores})

    def codes(self, cell: Cell) -> dict[str, NDArray[Any]]:
        """Arrays of a cell's ``codes.npz``."""
        return _load(self.folder(cell) / "codes.npz")

    def scores(self, cell: Cell) -> Scores:
        """What reports need of a cell."""
        arrays = _load(self.folder(cell) / "scores.npz")
        found = {_cutoff(name): values for name, values in arrays.items() if name.startswith("ap@")}
        return Scores(found, arrays["precision"], arrays["recall"])

    @contextmanager
    def working(self, cell: Cell) -> Iterator[bool]:
        """Claim a cell: gives whether this process has it; another one that has it keeps it."""
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False)
        try:
            lock.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _mark(self, cell: Cell) -> tuple[Any, Any]:
        """The stamp that a cell was finished with, and checksums of what was kept; None for what
        is not there or not readable.
        """
        try:
            found = json.loads((self.folder(cell) / "done.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None, None
        return found, found.pop("kept", None) if isinstance(found, dict) else None

    def _vouched(self, cell: Cell, rows: Sequence[Result]) -> bool:
        """Whether rows are those that the cell's mark tells of."""
        stamp, kept = self._mark(cell)
        if kept is None:  # by a version that did not look
            return stamp is not None
        return isinstance(kept, dict) and kept.get("rows") == _digest(rows)

    def _kept(self, cell: Cell, rows: Sequence[Result]) -> dict[str, str]:
        """Checksums of a cell's rows and files."""
        folder = self.folder(cell)
        files = {name: sha256_file(folder / name) for name in FILES if (folder / name).is_file()}
        return {"rows": _digest(rows)} | files

    def _lock(self) -> FileLock:
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / ".results.lock")


def _digest(rows: Sequence[Result]) -> str:
    return hashlib.sha256(repr(list(rows)).encode()).hexdigest()


def _plain(stamp: Stamp) -> Any:
    """The stamp as JSON gives it back."""
    return json.loads(json.dumps(stamp, sort_keys=True, default=str))


def _key(k: Cutoff) -> str:
    return f"ap@{'all' if k is None else k}"


def _cutoff(name: str) -> Cutoff:
    text = name.removeprefix("ap@")
    return None if text == "all" else int(text)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the same command again") from error
