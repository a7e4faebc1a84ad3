"""``report.html``: a run as one page that needs no network, made of what its directory holds."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from udmsh_pl.reports import significance
from udmsh_pl.reports.citation import citations
from udmsh_pl.reports.html_charts import measures_against_bits, precision_recall
from udmsh_pl.reports.html_tables import Field, field, results_table, table
from udmsh_pl.reports.results import COLUMNS, Cell, Grid, Result
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table import COSTS_NOTE, Pivot, costs
from udmsh_pl.safe.files import write_text

PAGE = Path(__file__).parent / "page"
PICTURES = (
    ("retrieved.png", "Found", "Queries, evenly chosen, and their nearest images."),
    ("misses.png", "Missed", "The queries with the lowest average precision: what goes wrong."),
    ("structure.png", "Structure", "Distances of train pairs and what was fitted to them."),
)


def write_html(
    run: RunDirectory,
    plan: Grid,
    results: Sequence[Result],
    leads: Sequence[tuple[str, ...]],
    missing: Sequence[Cell] = (),
) -> None:
    """Write ``report.html`` into a run's directory.

    Args:
        run: the directory; its cells, pictures, ``config.yaml`` and ``environment.json`` are read
        plan: what was run
        results: rows of the table
        leads: rows of ``significance.leads``
        missing: cells that the plan has and the results do not
    """
    write_text(run.path / "report.html", page(run, plan, results, leads, missing))


def page(
    run: RunDirectory,
    plan: Grid,
    results: Sequence[Result],
    leads: Sequence[tuple[str, ...]],
    missing: Sequence[Cell] = (),
) -> str:
    """The page's text, see :func:`write_html`."""
    first = results[0]
    sections = {
        "Results": _results(results, leads),
        "Curves": precision_recall(run, plan) + measures_against_bits(results),
        **{title: _picture(run.path / name, text) for name, title, text in PICTURES},
        "Costs": _costs(results),
        "All values": _all_values(results),
        "Environment": _environment(run.path),
        "How to cite": "".join(f"<pre>{escape(entry)}</pre>" for entry in citations()),
    }
    shown = {title: body for title, body in sections.items() if body}
    names = {title: title.lower().replace(" ", "-") for title in shown}
    told = ", ".join(cell.name for cell in missing)
    style, script = (_read(name).strip() for name in ("report.css", "report.js"))
    return Template(_read("report.html.in")).substitute(
        title=escape(f"{first.dataset}, protocol {first.protocol}"),
        subtitle=escape(f"udmsh-pl {first.version}, {first.backbone}, split {first.split_sha256}"),
        warning=f'<p class="warn">Missing: {escape(told)}.</p>' if missing else "",
        contents=" ".join(f'<a href="#{names[title]}">{title}</a>' for title in shown),
        sections="\n".join(
            f'<section id="{names[title]}"><h2>{title}</h2>{body}</section>'
            for title, body in shown.items()
        ),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _results(results: Sequence[Result], leads: Sequence[tuple[str, ...]]) -> str:
    pivot = Pivot.of(results)
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in pivot.notes())
    parts = [results_table(pivot), notes]
    if leads:
        rows = [
            [field(text, kind="text" if number < 3 else "") for number, text in enumerate(row)]
            for row in leads
        ]
        parts.append("<h3>How sure the lead is</h3>")
        parts.append(table(significance.HEADER, rows, texts=3))
        parts.append(f'<p class="note">{escape(significance.NOTE)}</p>')
    return "".join(parts)


def _costs(results: Sequence[Result]) -> str:
    peaks: dict[str, float] = {}
    for result in results:
        peaks[result.method] = max(peaks.get(result.method, 0.0), result.peak_gb)
    rows = [
        [field(method), field(f"{training:.1f}"), field(f"{encoding:.2f}"),
         field(f"{peaks[method]:.2f}")]
        for method, (training, encoding) in costs(results).items()
    ]  # fmt: skip
    head = ("method", "training, s", "encoding, s", "peak memory so far, GB")
    return table(head, rows) + f'<p class="note">{escape(COSTS_NOTE)}</p>'


def _all_values(results: Sequence[Result]) -> str:
    rows: list[list[Field]] = [
        [field(f"{value:.6g}" if isinstance(value, float) else str(value)) for value in row]
        for row in (asdict(result).values() for result in results)
    ]
    told = f"<summary>{len(rows)} rows of results.csv, with all their columns</summary>"
    return f"<details>{told}{table(COLUMNS, rows)}</details>"


def _environment(folder: Path) -> str:
    parts = []
    found = _json(folder / "environment.json")
    if found:
        facts = dict(found.pop("versions", {})) | found
        parts.append(f"<dl>{_facts(facts)}</dl>")
    config = folder / "config.yaml"
    if config.is_file():
        text = escape(config.read_text(encoding="utf-8", errors="replace"))
        parts.append(
            f"<details><summary>config.yaml, resolved</summary><pre>{text}</pre></details>"
        )
    return "".join(parts)


def _facts(facts: Mapping[str, Any]) -> str:
    def said(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    pairs: Iterable[tuple[str, Any]] = facts.items()
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(said(v))}</dd>" for k, v in pairs)


def _picture(path: Path, text: str) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(text)}">'
    caption = f"<figcaption>{escape(text)}</figcaption>"
    return f'<figure>{caption}<div class="wide">{image}</div></figure>'


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's policy allows to run: just this text."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
