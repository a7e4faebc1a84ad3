"""Write the tables of the pages anew from ``results/*.csv``: ``make results``.

A page says between which lines a table stands:

    <!-- results: table cifar10-small bits=64 k=1,10,100,1000,all -->
    ... written by this script ...
    <!-- results end -->

``table NAME`` is a table a code length, ``leads NAME`` the best method of each column against the
second, ``matrix NAME`` each method against each other one, and ``overview NAME,NAME`` compares
methods over data sets. ``bits=``, ``k=`` and ``methods=`` narrow them (a "_" stands for a blank in
a name); ``methods=`` keeps the rankings by the backbone's own features too. ``form=short`` is an
overview of the chosen methods' means alone. Methods stand in the order of
``experiments/compare.yaml``. ``--check`` writes nothing and fails where a page differs from the
data.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from scripts.collect_results import FUSED, RESULTS, SHARED, Lead, Value, read_rows

from udmsh_pl.errors import InputError
from udmsh_pl.reports.table import MATRIX_NOTE, Pivot, markdown, matrix_rows, render_tables
from udmsh_pl.reports.table_rows import Result
from udmsh_pl.retrieval.bootstrap import PairedDifference
from udmsh_pl.safe.files import write_text

ROOT = RESULTS.parent
PAGES = ("README.md", "experiments/README.md", "docs/*.md", "docs/*/*.md")
BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- results end -->)", re.DOTALL)
PLAN = yaml.safe_load((ROOT / "experiments/compare.yaml").read_text(encoding="utf-8"))
METHODS = list(PLAN["reproduce"]["methods"])
TITLES = {  # of data sets in overviews
    "fashion-sample": "sample",
    "cifar10-small": "CIFAR-10",
    "miml-scenes": "scenes",
    "drawings-fine": "drawings",
    "drawings-cross": "drawing to photo",
    "scenes-in-others": "scenes among others",
    "scenes-alexnet": "AlexNet",
    "scenes-vit": "ViT-S/14",
}
NOT_YET = "*Not measured yet with the current code.*"


def render_page(text: str, results: Path) -> str:
    """A page with its tables written anew.

    Raises:
        InputError: a marker asks for what there is not.
    """
    return BLOCK.sub(lambda m: f"{m[1]}{render_block(m[2], results)}\n{m[3]}", text)


def render_block(request: str, results: Path) -> str:
    """What stands under one marker, such as ``table cifar10-small bits=64``."""
    kind, names, *options = request.split(" ")
    asked = dict(option.split("=", 1) for option in options if "=" in option)
    known = ("bits", "k", "methods", "form")
    unknown = [option for option in options if option.split("=")[0] not in known]
    if kind not in ("table", "leads", "matrix", "overview") or unknown or len(asked) < len(options):
        raise InputError(f"results marker '{request}': see the head of scripts/render_results.py")
    ks = asked["k"].split(",") if "k" in asked else None
    bits = [int(one) for one in asked["bits"].split(",")] if "bits" in asked else None
    methods = asked["methods"].replace("_", " ").split(",") if "methods" in asked else None
    short = asked.get("form") == "short"
    paths = {name: results / f"{name}.csv" for name in names.split(",")}
    if not any(path.is_file() for path in paths.values()):
        return NOT_YET
    if kind == "matrix":
        return _matrix(results / f"{names}-leads.csv", ks, bits, methods)
    if kind == "leads":
        return _leads(results / f"{names}-leads.csv", ks, bits)
    rows = {
        name: [
            row
            for row in sorted(read_rows(path, Value), key=_place)
            if (bits is None or row.bits in (0, *bits))
            and (methods is None or row.method in methods or (_is_reference(row) and not short))
        ]
        for name, path in paths.items()
        if path.is_file()
    }
    if kind == "table":
        text = render_tables([_result(row) for row in rows[names]], "markdown", ks, bits)
        return f"{text}\n{_origin(names, rows[names])}"
    return _overview(rows, ks, bits, short)


def _searched(row: Value) -> str | None:
    """The method of the plan whose codes a real-valued ranking searches; None for others."""
    name = row.method.split(" (")[0]
    return name if row.ties == "none" and name in METHODS else None


def _is_reference(row: Value) -> bool:
    """Whether a row ranks by the backbone's own feature."""
    return row.ties == "none" and not _searched(row) and not row.method.endswith(FUSED)


def _place(row: Value) -> int:
    """Real-valued features first, then the plan's methods, then others."""
    name = _searched(row) or row.method
    if row.ties == "none" and name not in METHODS:
        return -1
    return METHODS.index(name) if name in METHODS else len(METHODS)


def _result(row: Value) -> Result:
    shared: dict[str, Any] = {name: getattr(row, name) for name in SHARED}
    # no table of a page has costs
    return Result(**shared, seconds=0.0, encode_seconds=0.0, peak_gb=0.0, version=row.commit)


def _origin(name: str, rows: Sequence[Value]) -> str:
    """With which code, where, when and on which split values were measured."""
    commits, machines, dates = (
        sorted({getattr(row, column) for row in rows}) for column in ("commit", "hardware", "date")
    )
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    code = ", ".join(f"`{commit[:12]}`" for commit in commits)
    split = rows[0].split_sha256[:12]
    return (
        f"Code: {code}; {'; '.join(machines)}; {days}. Data: `results/{name}.csv`, split `{split}`."
    )


def _leads(path: Path, ks: Sequence[str] | None, bits: Sequence[int] | None) -> str:
    found = [
        lead
        for lead in read_rows(path, Lead)
        if (ks is None or lead.k in ks)
        and (bits is None or lead.bits in bits)
        and lead.other_place == 2
    ]
    if not found:
        return NOT_YET
    lines = [
        "| column | best | second | lead | 95 % interval | p |",
        "|---|---|---|---:|---:|---:|",
    ]
    for lead in found:
        lines.append(
            f"| mAP@{lead.k.upper()}, {lead.bits} bits | {lead.first} | {lead.second} "
            f"| {lead.lead:+.3f} | {lead.lower:+.3f} to {lead.upper:+.3f} | {lead.p:.4f} |"
        )
    methods = " or ".join(map(str, sorted({lead.methods for lead in found})))
    note = (
        "Paired bootstrap over queries and seeds (2,000 resamples) of each query's expected AP, "
        f"among {methods} methods."
    )
    return "\n".join([*lines, "", note])


def _matrix(
    path: Path, ks: Sequence[str] | None, bits: Sequence[int] | None, methods: Sequence[str] | None
) -> str:
    """The lead of each method over each other one, a matrix a code length and cut-off."""
    columns: dict[tuple[int, str], list[Lead]] = {}
    for lead in read_rows(path, Lead):
        wanted = (lead.k in (ks or [lead.k])) and lead.bits in (bits or [lead.bits])
        if wanted and {lead.first, lead.second} <= set(methods or [lead.first, lead.second]):
            columns.setdefault((lead.bits, lead.k), []).append(lead)
    parts = []
    for (length, k), leads in columns.items():
        places = {lead.first: lead.place for lead in leads}
        places |= {lead.second: lead.other_place for lead in leads}
        found = {
            (lead.first, lead.second): PairedDifference(lead.lead, lead.lower, lead.upper, lead.p)
            for lead in leads
        }
        header, *rows = matrix_rows(sorted(places, key=places.__getitem__), found)
        rule = ("---", *["---:"] * len(rows))
        title = f"mAP@{k.upper()}, {length} bits", *header[1:]
        parts.append(markdown([title, rule, *rows]))
    return "\n\n".join([*parts, MATRIX_NOTE]) if parts else NOT_YET


def _overview(
    rows: dict[str, list[Value]],
    ks: Sequence[str] | None,
    bits: Sequence[int] | None,
    short: bool = False,
) -> str:
    """Methods against data sets, a column a data set and measure of mAP."""
    pivots = {
        name: Pivot.of([_result(row) for row in own if row.metric == "map"], ks, bits)
        for name, own in rows.items()
    }
    methods = list(dict.fromkeys(one for pivot in pivots.values() for one in pivot.methods))
    places = [(pivot, column) for pivot in pivots.values() for column in pivot.columns]
    titles = [
        f"{TITLES.get(name, name)} @{'ALL' if whole else k}"
        for name, pivot in pivots.items()
        for _, whole, k, _ in pivot.columns
    ]
    lines = [f"| method | {' | '.join(titles)} |", f"|---|{'---:|' * len(places)}"]
    for method in methods:
        cells = [
            _cell(
                pivot.values.get((method, column), []), pivot.clear_winner(column) == method, short
            )
            for pivot, column in places
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    origins = [_origin(name, own) for name, own in rows.items()]
    return "\n".join(lines if short else [*lines, "", *origins])


def _cell(values: Sequence[float], bold: bool, short: bool) -> str:
    """Mean ± standard deviation over seeds, without leading zeros, so that a row fits a screen."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.3f}"
    if len(values) > 1 and not short:
        text += f"±{statistics.stdev(values):.3f}"
    text = text.replace("0.", ".")
    return f"**{text}**" if bold else text


def pages(root: Path) -> list[Path]:
    """The pages that have tables of ours."""
    found = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    return [path for path in found if "<!-- results:" in path.read_text(encoding="utf-8")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of pages and results/")
    args = parser.parse_args(arguments)
    differing = []
    try:
        for page in pages(args.root):
            text = page.read_text(encoding="utf-8")
            if (new := render_page(text, args.root / "results")) != text:
                differing.append(str(page.relative_to(args.root)))
                if not args.check:
                    write_text(page, new)
    except InputError as error:
        sys.exit(f"render_results.py: error: {error}")
    if args.check and differing:
        sys.exit(f"{', '.join(differing)} differ from results/*.csv; run `make results`")
    print("\n".join(f"{page} written" for page in differing) or "nothing to write")


if __name__ == "__main__":
    main()
