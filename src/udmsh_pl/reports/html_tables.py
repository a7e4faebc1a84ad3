"""Tables of the page: a click on a header sorts them."""

import statistics
from collections.abc import Sequence
from html import escape

from udmsh_pl.reports.table import Column, Pivot, column_title

Field = str  # a whole <td>


def field(text: str, value: float | None = None, kind: str = "", told: str = "") -> Field:
    """A cell of a table.

    Args:
        text: what it shows
        value: what it is sorted by, where the text is no number
        kind: class of the style sheet
        told: shown while the pointer rests on it
    """
    return _field(escape(text), value, kind, told)


def table(header: Sequence[str], rows: Sequence[Sequence[Field]], texts: int = 1) -> str:
    """A table that is sorted by a click on a header, and scrolls in its box where it is too wide.

    Args:
        header: names of the columns
        rows: cells, see :func:`field`
        texts: how many of the first columns are words
    """
    heads = "".join(
        f'<th scope="col"{_kind("text" if number < texts else "")}>'
        f'<button type="button">{escape(name)}</button></th>'
        for number, name in enumerate(header)
    )
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def results_table(pivot: Pivot) -> str:
    """Methods against measures and code lengths: mean and spread, the seeds' values when asked."""
    best = {column: pivot.clear_winner(column) for column in pivot.columns}
    rows = [
        [
            field(method),
            *(
                _value(pivot.values.get((method, c), []), method == best[c], pivot, method, c)
                for c in pivot.columns
            ),
        ]
        for method in pivot.methods
    ]
    return table(["method", *(column_title(column) for column in pivot.columns)], rows)


def _value(values: Sequence[float], best: bool, pivot: Pivot, method: str, column: Column) -> Field:
    if not values:
        return field("")
    text = f"{statistics.fmean(values):.3f}"
    told = "seeds: " + ", ".join(f"{value:.4f}" for value in values)
    if len(values) > 1:
        text += f" <small>± {statistics.stdev(values):.3f}</small>"
    low, high = pivot.interval(method, column)
    told += f"; order of ties alone: {low:.4f} to {high:.4f}"
    return _field(text, statistics.fmean(values), "best" if best else "", told)


def _field(markup: str, value: float | None, kind: str, told: str) -> Field:
    data = "" if value is None else f' data-v="{value:.6f}"'
    title = f' title="{escape(told)}"' if told else ""
    return f"<td{_kind(kind)}{data}{title}>{markup}</td>"


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
