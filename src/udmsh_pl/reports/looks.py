"""How a method is drawn: the same colour, line and marker in every figure of every run."""

import zlib
from typing import TypedDict

MARKERS = "osD^vP*X<>"
STYLES = ("-", "--", "-.", ":")
# Okabe & Ito's, safe for the colour-blind, then others; none so dark that a dark page hides it
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#888888", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c45",
    "#9b2545", "#999933", "#6a4cbf", "#44aa99",
)  # fmt: skip
# The first twelve have a colour of their own; a grey print tells all apart by line and marker.
KNOWN = (
    "udmsh-plus", "udmsh", "itq", "lsh", "pcah", "sdc-views", "bihalf", "mls3rduh", "cibhash", "sh",
    "sph", "sgh", "ssdh", "greedyhash", "sdc", "cimon", "nsh", "wch", "udth",
    "cosine (real-valued)",
)  # fmt: skip


class Look(TypedDict):
    """Matplotlib's words for a line."""

    color: str
    linestyle: str
    marker: str
    markersize: float
    linewidth: float


def look_of(method: str) -> Look:
    """The look of a method; of one that is not among ours, by its name alone."""
    known = method in KNOWN
    number = KNOWN.index(method) if known else len(KNOWN) + zlib.crc32(method.encode()) % 280
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(MARKERS) % len(STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4.0,
        "linewidth": 1.4,
    }
