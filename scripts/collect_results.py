"""Collect values of finished runs as data: ``results/<dataset>.csv``, one row a value.

    udmsh reproduce experiments/compare.yaml --out runs/compare
    python scripts/collect_results.py runs/compare
    make results        # writes the tables of the pages anew

A value that is already in the file is replaced. A file holds values of one commit: where another
one would be left in it, nothing is written unless ``--mix-commits`` is given. Give all runs of a
data set and a code length together: the leads (``results/<dataset>-leads.csv``, a paired bootstrap
over queries and seeds) are computed from the scores of the runs that are given; leads of other
code lengths stay. A method that read fused features (``--model.fused true``) is a method of its
own: "itq (fused)".
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from udmsh_pl.errors import InputError
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table import by_mean
from udmsh_pl.reports.table_rows import Cell, Result, learns_from_labels, read_results
from udmsh_pl.retrieval.bootstrap import paired_differences
from udmsh_pl.safe.files import csv_text, sha256_json, write_text

RESULTS = Path(__file__).parents[1] / "results"
NOT_SETTINGS = ("bits", "seed", "ks", "measures")  # of a cell; they have columns, or change no code
EACH = 64  # bits at which each method is compared with each other one
FUSED = " (fused)"  # ends the name of a method that read fused features
PLACES = ("root", "lists", "query", "database", "train")  # of files; the split has a fingerprint


@dataclass(frozen=True)
class Value:
    """One row of ``results/<dataset>.csv``.

    Args:
        settings: digest of the method's settings and of its features' (backbone, image size,
            views), without code length and seed
        k: a number, or ``all``
        ties: ``expected``, ``id`` (order of rows) or ``none`` (a real-valued ranking)
        lower: in the worst order of tied images
        upper: in the best order
        commit: of the code that measured the value
    """

    dataset: str
    protocol: str
    split_sha256: str
    method: str
    backbone: str
    settings: str
    bits: int
    seed: int
    metric: str
    k: str
    ties: str
    denominator: str
    value: float
    lower: float
    upper: float
    commit: str
    hardware: str
    date: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What the value is of, in the order of the file."""
        whole = self.k == "all"
        place = (self.metric, whole, 0 if whole else int(self.k), self.ties)
        split = (self.dataset, self.protocol, self.split_sha256)
        return (*split, learns_from_labels(self.method), self.method, self.bits, self.seed, *place)


@dataclass(frozen=True)
class Lead:
    """One row of ``results/<dataset>-leads.csv``: one method of a column against a worse one.

    Args:
        place: of the first method among all by mean mAP@k, from 1
        other_place: of the second method
        lead: difference of mAP@k, averaged over queries and seeds
        lower: of the 95 % interval over queries and seeds
        upper: of the same
    """

    dataset: str
    split_sha256: str
    bits: int
    k: str
    place: int
    other_place: int
    first: str
    second: str
    lead: float
    lower: float
    upper: float
    p: float
    methods: int
    commit: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What the lead is of, in the order of the file."""
        whole = self.k == "all"
        column = self.dataset, self.split_sha256, self.bits, whole, 0 if whole else int(self.k)
        return *column, self.place, self.other_place


Row = TypeVar("Row", Value, Lead)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Rows of a file of ours, none where there is no file.

    Raises:
        InputError: the columns are others, or a number is none.
    """
    if not path.is_file():
        return []
    types: dict[str, Any] = {one.name: one.type for one in fields(kind)}
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != list(types):
            raise InputError(f"{path}: expected the columns {','.join(types)}")
        try:
            return [
                kind(**{name: types[name](text) for name, text in row.items()}) for row in reader
            ]
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}:{reader.line_num}: {error}") from error


def write_rows(path: Path, rows: Iterable[Value] | Iterable[Lead], kind: type[Row]) -> None:
    """Write a file of ours, whole or not at all, in the order of its keys."""
    ordered: list[Any] = sorted(rows, key=lambda row: row.key)
    names = [one.name for one in fields(kind)]
    write_text(path, csv_text([names, *map(astuple, ordered)]))


def values_of(run: Path) -> list[Value]:
    """The values of a run directory.

    Raises:
        InputError: the directory has no results, or does not say with which code they were made.
    """
    facts = read_json(run / "environment.json")
    directory, values = RunDirectory(run), []
    for row in read_results(run / "results.csv"):
        mark = directory.folder(row.cell) / "done.json"
        stamp = read_json(mark)
        shared: dict[str, Any] = {name: getattr(row, name) for name in SHARED}
        shared["method"] = name_of(row)
        values.append(
            Value(
                **shared,
                settings=settings_digest(stamp),
                commit=stamp.get("commit") or facts.get("package_commit") or f"v{row.version}",
                hardware=hardware(facts),
                date=datetime.fromtimestamp(mark.stat().st_mtime, timezone.utc).date().isoformat(),
            )
        )
    return values


SHARED = sorted({one.name for one in fields(Value)} & {one.name for one in fields(Result)})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a run directory.

    Raises:
        InputError: there is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        mend = "give a directory that `udmsh reproduce` has finished"
        raise InputError(f"{path} cannot be read ({error}); {mend}") from error
    return dict(found)


def settings_digest(stamp: dict[str, Any]) -> str:
    """Twelve digits of the SHA-256 of a cell's settings and features; see :class:`Value`."""
    settings = {k: v for k, v in stamp.get("settings", {}).items() if k not in NOT_SETTINGS}
    if isinstance(data := settings.get("data"), dict):
        settings["data"] = {name: value for name, value in data.items() if name not in PLACES}
    return sha256_json([settings, stamp.get("features")])[:12]


def hardware(facts: dict[str, Any]) -> str:
    """The GPUs of a run, or the kind of processor."""
    if facts.get("gpus"):
        return ", ".join(sorted(set(facts["gpus"])))
    kinds = ("x86_64", "aarch64", "arm64", "AMD64")
    kind = next((kind for kind in kinds if kind in facts.get("platform", "")), "")
    return f"CPU {kind}".strip()


def name_of(row: Result) -> str:
    """A method's name in the tables."""
    return row.method + (FUSED if row.backbone.endswith("fused feature") else "")


def leads_of(runs: Sequence[Path], values: Sequence[Value]) -> list[Lead]:
    """The lead of the best method over the second, per code length and cut-off; with 64 bits of
    each method over each worse one.

    Only where the runs hold the scores of the two, and with 64 bits of every method in ``values``,
    so that no method is left out of a comparison; methods that learn from labels take no part.
    """
    compared = [
        v
        for v in values
        if v.ties == "expected" and v.metric == "map" and not learns_from_labels(v.method)
    ]
    places = {
        Cell(name_of(row), row.bits, row.seed): (run, row.cell)
        for run in runs
        for row in read_results(run / "results.csv")
        if (RunDirectory(run).folder(row.cell) / "scores.npz").is_file()
    }
    leads = []
    for bits in sorted({value.bits for value in compared}):
        own = [value for value in compared if value.bits == bits]
        scores: dict[str, list[dict[str, Any]]] = {}
        for cell in sorted({Cell(value.method, bits, value.seed) for value in own}):
            if cell in places:
                run, planned = places[cell]
                found = RunDirectory(run).scores(planned).average_precision
                named = {"all" if k is None else str(k): ap for k, ap in found.items()}
                scores.setdefault(cell.method, []).append(named)
        seeds = {
            value.method: len({v.seed for v in own if v.method == value.method}) for value in own
        }
        missing = {name for name, count in seeds.items() if len(scores.get(name, ())) < count}
        if len(seeds) < 2 or len(missing) > len(seeds) - 2 or (bits == EACH and missing):
            continue
        scores = {name: found for name, found in scores.items() if name not in missing}
        shared = set.intersection(*(set(one) for found in scores.values() for one in found))
        for k in shared:
            sums = {
                name: sum(v.value for v in own if (v.method, v.k) == (name, k)) for name in seeds
            }
            means = {name: sums[name] / seeds[name] for name in seeds}
            if missing.intersection(sorted(means, key=means.__getitem__)[-2:]):
                continue
            ranked = by_mean(
                {name: np.stack([one[k] for one in found]) for name, found in scores.items()}
            )
            ranks = {name: rank for rank, name in enumerate(ranked, 1)}
            for (first, second), lead in paired_differences(ranked).items():
                if bits != EACH and ranks[second] > 2:
                    continue
                leads.append(
                    Lead(
                        dataset=own[0].dataset,
                        split_sha256=own[0].split_sha256,
                        bits=bits,
                        k=k,
                        place=ranks[first],
                        other_place=ranks[second],
                        first=first,
                        second=second,
                        lead=round(lead.mean, 4),
                        lower=round(lead.lower, 4),
                        upper=round(lead.upper, 4),
                        p=round(lead.p_value, 4),
                        methods=len(seeds),
                        commit=" ".join(sorted({value.commit for value in own})),
                    )
                )
    return leads


def collect(
    runs: Sequence[Path], results: Path, name: str | None = None, mix_commits: bool = False
) -> list[str]:
    """Add runs to ``results``; gives a line about each file.

    Args:
        runs: run directories; the later one has the last word on a value that two have
        results: folder of the files
        name: of the file, where it is not the data set's
        mix_commits: allow values of several commits, or of changed code, in one file

    Raises:
        InputError: see :func:`values_of`; or a file would hold values of several splits, of several
            backbones, of several settings of one method, or, unless asked for, of several commits
            or of code with uncommitted changes.
    """
    files: dict[str, dict[Any, Value]] = {}
    for run in runs:
        for value in values_of(run):
            files.setdefault(name or value.dataset, {})[value.key] = value
    contents = {}
    for stem, new in files.items():  # all are checked before one is written
        path = results / f"{stem}.csv"
        values = {old.key: old for old in read_rows(path, Value)} | new
        check_one_source(path, list(values.values()), mix_commits)
        contents[stem] = list(values.values())
    lines = []
    for stem, merged in contents.items():
        write_rows(results / f"{stem}.csv", merged, Value)
        path, given = results / f"{stem}-leads.csv", {value.bits for value in files[stem].values()}
        leads = [lead for lead in read_rows(path, Lead) if lead.bits not in given]
        leads += leads_of(runs, [value for value in merged if value.bits in given])
        if leads or path.is_file():
            write_rows(path, leads, Lead)
        lines.append(f"{stem}.csv: {len(merged)} values; {stem}-leads.csv: {len(leads)} leads")
        if lacking := sorted(given - {lead.bits for lead in leads} - {0}):
            lengths = ", ".join(map(str, lacking))
            lines[-1] += f", none at {lengths} bits (give all runs of a code length together)"
    return lines


def check_one_source(path: Path, values: Sequence[Value], mix_commits: bool) -> None:
    """Refuse what no table compares; see :func:`collect`."""
    splits = sorted(
        {f"{v.dataset} {v.protocol} {v.split_sha256[:12]} {v.backbone.split()[0]}" for v in values}
    )
    if len(splits) > 1:
        raise InputError(
            f"{path} would hold values of several data sets or backbones ({'; '.join(splits)}); "
            "give --name NAME for a file of its own"
        )
    settings: dict[str, set[str]] = {}
    for value in values:
        settings.setdefault(value.method, set()).add(value.settings)
    if several := sorted(method for method, found in settings.items() if len(found) > 1):
        raise InputError(
            f"{path} would hold values of several settings of {', '.join(several)}; run all code "
            "lengths and seeds with the same ones, or give --name NAME for a file of its own"
        )
    methods: dict[str, set[str]] = {}
    for value in values:
        methods.setdefault(value.commit, set()).add(value.method)
    changed = [commit for commit in methods if commit.endswith("+changes")]
    if mix_commits or (len(methods) == 1 and not changed):
        return
    if changed:
        raise InputError(
            f"{path}: {changed[0]} is code with uncommitted changes; commit them and run again, "
            "or give --mix-commits"
        )
    found = "; ".join(f"{commit[:12]}: {', '.join(sorted(own))}" for commit, own in methods.items())
    raise InputError(
        f"{path} would hold values of {len(methods)} commits ({found}); run the older ones again, "
        "remove the file, or give --mix-commits"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the files")
    parser.add_argument("--name", help="name of the file, where it is not the data set's")
    parser.add_argument(
        "--mix-commits", action="store_true", help="allow values of several commits"
    )
    args = parser.parse_args(arguments)
    try:
        print("\n".join(collect(args.runs, args.results, args.name, args.mix_commits)))
    except InputError as error:
        sys.exit(f"collect_results.py: error: {error}")


if __name__ == "__main__":
    main()
