"""A run directory: a folder a cell, which owns the cell's rows, codes, per-query scores and stamp.

The stamp, written last, says with which settings, features and split the cell was finished, and
holds checksums of what was kept: a cell whose stamp is another one, or whose files were altered, is
run again. ``results.csv`` is derived from the cells' rows, and never read where a cell has its own.
Reports read what lies here and score nothing again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from udmsh_pl.errors import InputError
from udmsh_pl.features.verified import are_whole
from udmsh_pl.reports.environment import package_commit
from udmsh_pl.reports.table_rows import Cell, Result, read_results, write_results
from udmsh_pl.retrieval.evaluation import RetrievalReport
from udmsh_pl.retrieval.ties import Cutoff
from udmsh_pl.safe.files import read_object, save_arrays, sha256_file, write_text
from udmsh_pl.safe.untrusted import check_archive

Stamp = Mapping[str, Any]
ROWS = "rows.csv"
CODES = ("codes.npz", "scores.npz")  # of a cell that has codes


@dataclass(frozen=True)
class Scores:
    """What reports need of a cell beyond its rows: expected AP@k of each query, [Q], by cut-off,
    and mean precision and recall within Hamming radius 0..K, [K + 1].
    """

    average_precision: dict[Cutoff, NDArray[np.float64]]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run; it need not exist yet."""

    path: Path

    @property
    def results_path(self) -> Path:
        """Where ``results.csv`` is."""
        return self.path / "results.csv"

    def folder(self, cell: Cell) -> Path:
        """Where a cell keeps its files."""
        return self.path / "cells" / cell.name

    def results(self, order: Sequence[Cell] = ()) -> list[Result]:
        """The rows of all whole cells; those of another split than the run's are left out.

        The cells of ``order`` come first, then the others as they were finished.
        """
        found = self._whole_cells()
        first = [cell for cell in order if cell in found]
        others = sorted(found.keys() - set(first), key=self.finished_at)
        return [row for cell in [*first, *others] for row in found[cell]]

    def write_results(self, order: Sequence[Cell] = ()) -> list[Result]:
        """Write ``results.csv``, see :meth:`results`; gives its rows."""
        results = self.results(order)
        write_results(self.results_path, results)
        return results

    def table(self) -> list[Result]:
        """The rows that a table of the directory shows, in the order of ``results.csv``.

        They are the cells' own; those of ``results.csv`` where cells of 0.2 have none, or where
        there are no cells.

        Raises ``InputError``: there are neither cells nor ``results.csv``, or that is damaged.
        """
        if self._without_rows():
            return read_results(self.results_path)
        try:
            order = list(dict.fromkeys(row.cell for row in read_results(self.results_path)))
        except InputError:
            order = []
        return self.results(order) or read_results(self.results_path)

    def left_out(self) -> list[str]:
        """Names of finished cells that :meth:`results` leaves out."""
        names = {cell.name for cell in self._whole_cells()}
        return [folder.name for folder in self._folders() if folder.name not in names]

    def rows(self, cell: Cell) -> list[Result]:
        """A cell's rows; none before it is finished."""
        path = self.folder(cell) / ROWS
        return read_results(path) if path.is_file() else []

    def finished_at(self, cell: Cell) -> int:
        """When the cell was marked as finished, in nanoseconds; 0 when it was not."""
        try:
            return (self.folder(cell) / "done.json").stat().st_mtime_ns
        except OSError:
            return 0

    def finished(self, cell: Cell, stamp: Stamp, has_codes: bool = True) -> bool:
        """Whether the cell was finished with just these settings and all its files are whole."""
        folder = self.folder(cell)
        found, kept = _mark(folder)
        needed = {ROWS, *(CODES if has_codes else ())}
        return found == _plain(stamp) and needed <= kept.keys() and _is_whole(folder, kept)

    def begin(self, cell: Cell, stamp: Stamp) -> None:
        """Note what a cell is trained with: at SLURM's time limit Lightning leaves
        ``hpc_ckpt_N.ckpt``, from which a requeued job must go on under the same settings alone.
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
        """Write a cell's rows, then mark it as finished: a kill between only repeats the cell."""
        folder = self.folder(cell)
        write_results(folder / ROWS, rows)
        kept = {name: sha256_file(folder / name) for name in CODES if (folder / name).is_file()}
        _write_mark(folder, _plain(stamp) | {"commit": package_commit()}, kept)

    def take_over(self) -> None:
        """Give cells that 0.2 finished their rows, which only ``results.csv`` had.

        Rows that the cell's mark does not vouch for are left: the cell is run again. Raises
        ``InputError`` where there are such cells, and ``results.csv`` is damaged.
        """
        waiting = self._without_rows()
        if not waiting or not self.results_path.is_file():
            return
        for cell, rows in _by_cell(read_results(self.results_path)).items():
            if (folder := self.folder(cell)) not in waiting:
                continue
            with self.working(cell) as mine:
                stamp, kept = _mark(folder)
                if not mine or stamp is None or ROWS in kept:
                    continue
                # what 0.2 kept to know the cell's rows in results.csv
                digest = hashlib.sha256(repr(rows).encode()).hexdigest()
                if kept and kept.pop("rows", None) != digest:
                    continue
                write_results(folder / ROWS, rows)
                # versions before 0.2 kept no checksums
                have = [name for name in CODES if (folder / name).is_file()]
                _write_mark(folder, stamp, kept or {n: sha256_file(folder / n) for n in have})

    def save_scored(self, cell: Cell, arrays: Mapping[str, Any], report: RetrievalReport) -> None:
        """Keep ``codes.npz`` and what reports need (``scores.npz``).

        ``arrays`` are ``query_codes``, ``database_codes``, uint8 [N, bytes], and their labels.
        """
        folder = self.folder(cell)
        save_arrays(folder / "codes.npz", {"bits": np.int64(cell.bits), **arrays})
        precision, recall = report.precision_recall_curve()
        scores = {"precision": precision, "recall": recall}
        for k, values in report.expected_average_precision.items():
            scores[f"ap@{'all' if k is None else k}"] = values
        save_arrays(folder / "scores.npz", scores)

    def codes(self, cell: Cell) -> dict[str, NDArray[Any]]:
        """Arrays of a cell's ``codes.npz``."""
        return _load(self.folder(cell) / "codes.npz")

    def scores(self, cell: Cell) -> Scores:
        """What reports need of a cell."""
        arrays = _load(self.folder(cell) / "scores.npz")
        found: dict[Cutoff, NDArray[np.float64]] = {
            None if name == "ap@all" else int(name.removeprefix("ap@")): values
            for name, values in arrays.items()
            if name.startswith("ap@")
        }
        return Scores(found, arrays["precision"], arrays["recall"])

    def scores_of(self, method: str, bits: int, seeds: Sequence[int]) -> list[Scores]:
        """Scores of the seeds' cells that have ``scores.npz``."""
        cells = [Cell(method, bits, seed) for seed in seeds]
        return [self.scores(one) for one in cells if (self.folder(one) / "scores.npz").is_file()]

    @contextmanager
    def working(self, cell: Cell) -> Iterator[bool]:
        """Claim a cell; gives False where another process holds it."""
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False)
        with suppress(TimeoutError):
            lock.acquire()
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def _folders(self) -> list[Path]:
        """Folders of cells that were finished."""
        return sorted(path.parent for path in self.path.glob("cells/*/done.json"))

    def _without_rows(self) -> list[Path]:
        """Folders of cells that 0.2 finished."""
        marks = ((folder, *_mark(folder)) for folder in self._folders())
        return [folder for folder, stamp, kept in marks if stamp is not None and ROWS not in kept]

    def _whole_cells(self) -> dict[Cell, list[Result]]:
        """The rows of each finished cell that is whole and of the run's split."""
        split, found = read_object(self.path / "environment.json").get("split_sha256"), {}
        for folder in self._folders():
            _, kept = _mark(folder)
            if ROWS not in kept or not _is_whole(folder, kept):
                continue
            for cell, rows in _by_cell(read_results(folder / ROWS)).items():
                splits = {row.split_sha256 for row in rows}
                if cell.name == folder.name and splits <= {split or rows[0].split_sha256}:
                    found[cell] = rows
        return found


def _by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    found: dict[Cell, list[Result]] = {}
    for result in results:
        found.setdefault(result.cell, []).append(result)
    return found


def _mark(folder: Path) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The stamp that a cell was finished with, None where there is none; checksums of its files."""
    stamp = read_object(folder / "done.json")
    kept = stamp.pop("kept", None)
    stamp.pop("commit", None)  # of the code: says where rows are from, makes none stale
    return stamp or None, kept if isinstance(kept, dict) else {}


def _write_mark(folder: Path, stamp: dict[str, Any], kept: dict[str, str]) -> None:
    kept = kept | {ROWS: sha256_file(folder / ROWS)}
    write_text(folder / "done.json", json.dumps(stamp | {"kept": kept}))
    _is_whole(folder, kept)  # notes sizes and times, so that no later look reads the files


def _is_whole(folder: Path, kept: Mapping[str, str]) -> bool:
    """Whether a cell's files are those that were kept; their bytes are read only after a change."""
    names = [name for name in kept if name in (ROWS, *CODES)]
    return are_whole({folder / name: kept[name] for name in names}, folder / ".whole.json")


def _plain(stamp: Stamp) -> Any:
    """The stamp as JSON gives it back."""
    return json.loads(json.dumps(stamp, sort_keys=True, default=str))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the same command again") from error
