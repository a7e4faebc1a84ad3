"""Published numbers beside ours, where both are of one protocol.

``experiments/published.csv`` holds the numbers of papers and public code, each with its protocol
and source. Its last columns say which of our results a number can stand beside.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from udmsh_pl.errors import InputError
from udmsh_pl.reports.table import markdown
from udmsh_pl.reports.table_rows import Result, mean_and_spread
from udmsh_pl.safe.shipped import shipped

METRIC = "mAP@"
OURS = "ours ± spread (seeds)"
HEADER = ("dataset", "method", "bits", "k", "published", OURS, "difference", "source")
NOTE = (
    "Published numbers of the same dataset, protocol, backbone, method, code length and k, and our "
    "mean over seeds. Published code leaves the order of tied images to its sort; our value "
    "averages over all orders."
)


@dataclass(frozen=True)
class PublishedNumber:
    """A row of ``published.csv``.

    Dataset, method, backbone and protocol (numbers of queries, database and train images) are in
    the words of its source; ``our_*`` are the same in ``results.csv`` and the plans, empty where
    there is none. ``k`` is the cut-off of mAP, or ``all``; ``denominator`` of AP@k and ``ties``,
    the order of tied images, are of the source's code, empty where we have not read it.
    """

    dataset: str
    method: str
    backbone: str
    bits: int
    k: str
    value: float
    protocol: str
    source: str
    our_protocol: str
    our_backbone: str
    our_method: str
    denominator: str
    ties: str


@dataclass(frozen=True)
class PublishedRow:
    """A published number and ours of the same dataset, protocol, backbone, method, bits and k.

    ``value`` is our expected mAP, a mean over seeds, ``spread`` its standard deviation, 0 for one.
    """

    number: PublishedNumber
    value: float
    spread: float
    seeds: int

    @property
    def difference(self) -> float:
        """Ours less theirs."""
        return self.value - self.number.value

    @property
    def texts(self) -> tuple[str, ...]:
        """Fields under ``HEADER``."""
        one, ours = self.number, f"{self.value:.4f} ± {self.spread:.4f} ({self.seeds})"
        numbers = f"{one.value:.4f}", ours, f"{self.difference:+.4f}"
        return (one.dataset, one.method, str(one.bits), one.k, *numbers, one.source)


def read_published(path: Path | None = None) -> list[PublishedNumber]:
    """Read the published numbers, by default those of ``experiments/published.csv``.

    Raises ``InputError``: the file is absent, or a line has other columns or a number that is none.
    """
    path = path or shipped("experiments") / "published.csv"
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a published.csv")
    numbers = []
    with path.open(encoding="utf-8", newline="") as stream:
        lines = csv.DictReader(stream)
        for line in lines:
            try:
                if None in line or None in line.values():
                    raise ValueError("a line of another length than the first")
                metric = line.pop("metric")
                if not metric.startswith(METRIC):
                    raise ValueError(f"metric is {metric!r}, not {METRIC}k")
                bits, value = int(line.pop("bits")), float(line.pop("value"))
                k = metric.removeprefix(METRIC)
                numbers.append(PublishedNumber(bits=bits, k=k, value=value, **line))
            except (KeyError, TypeError, ValueError) as error:
                mend = "give the columns and numbers of experiments/published.csv"
                raise InputError(f"{path}:{lines.line_num}: {error}; {mend}") from error
    return numbers


def published_rows(
    results: Iterable[Result], published: Iterable[PublishedNumber] | None = None
) -> list[PublishedRow]:
    """Put published numbers beside our results.

    A published number counts where dataset, protocol, backbone, method, code length and k agree
    with ours, and the denominator of AP@k too where it is known. A method of a plan agrees by the
    name that it has in ``experiments/*.yaml`` (``bihalf``). Our value is the expected mAP; other
    measures are passed over. The rows are in the order of ``published``, by default
    ``experiments/published.csv``.
    """
    ours: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for row in results:
        if row.metric == "map" and row.ties == "expected":
            key = (row.dataset, row.protocol, row.backbone, row.method, row.bits, row.k)
            for denominator in (row.denominator, ""):  # of some published numbers it is not known
                ours[(*key, denominator)].append(row.value)
    rows = []
    for one in read_published() if published is None else published:
        key = (one.dataset, one.our_protocol, one.our_backbone, one.our_method, one.bits, one.k)
        if values := ours.get((*key, one.denominator)):
            mean, spread = mean_and_spread(values)
            rows.append(PublishedRow(one, mean, spread or 0.0, len(values)))
    return rows


def markdown_table(rows: Iterable[PublishedRow]) -> str:
    """Published numbers beside ours as a Markdown table, or an empty text where there are none."""
    lines = [row.texts for row in rows]
    rule = ("---", "---", *["---:"] * 5, "---")
    return markdown([HEADER, rule, *lines]) if lines else ""
