"""A plan: methods x code lengths x seeds, and the cells that it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypedDict

from udmsh_pl.errors import InputError
from udmsh_pl.reports.table_rows import Cell, Grid
from udmsh_pl.retrieval.measures import MEASURES
from udmsh_pl.runs.rankings import ENDINGS

Numbers = Sequence[int] | None
Names = Sequence[str] | None


class _Named(TypedDict):
    class_path: str


class Method(_Named, total=False):
    """A subclass of ``ShallowHash`` or ``HashingModule``, also of a module in the current folder,
    and arguments of its constructor but for ``bits`` and ``seed``, which come from the cell.
    """

    init_args: dict[str, Any]


@dataclass(frozen=True)
class Plan(Grid):
    """What ``udmsh reproduce`` runs; the Lightning subcommands ignore it.

    Args:
        bits: code lengths
        seeds: seeds; a table shows mean and spread over them
        ks: cut-offs of mAP; null is the whole database
        methods: name in the table -> class and settings; null is the configuration's own model
        measures: functions from a report to measures: names of ``udmsh_pl.retrieval.measures``, or
            ``my_module.my_measure``
        quantisers: product quantisers to score beside them, ``pq`` and ``opq``: rows of another
            kind, with as many bits and real-valued queries
        rankings: learned method -> other ways to rank by its codes, ``asymmetric`` or
            ``two-stages`` (:mod:`udmsh_pl.runs.rankings`): rows of another kind
    """

    bits: list[int] = field(default_factory=lambda: [16, 32, 64])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    ks: list[int | None] = field(default_factory=lambda: [1000, None])
    methods: dict[str, Method | None] = field(default_factory=lambda: {"udmsh": None})
    measures: list[str] = field(default_factory=lambda: list(MEASURES))
    quantisers: list[str] = field(default_factory=list)
    rankings: dict[str, list[str]] = field(default_factory=dict)

    def check(self, source: str) -> None:
        """Refuse numbers and names that no cell can have, in a line that begins with the source."""
        for key in ("bits", "seeds", "methods"):
            if not getattr(self, key):
                raise InputError(f"{source}: reproduce.{key} is empty; give at least one")
        of_codes = [kind for kinds in self.rankings.values() for kind in kinds]
        for key, given, known in (
            ("quantisers", self.quantisers, ("pq", "opq")),
            ("rankings", of_codes, tuple(ENDINGS)),
            ("rankings", self.rankings, tuple(self.methods)),
        ):
            if unknown := [name for name in given if name not in known]:
                problem = f"{source}: reproduce.{key}: {unknown[0]!r} is not known"
                raise InputError(f"{problem}; known are {', '.join(known)}")
        for key, values, least in (("bits", self.bits, 1), ("seeds", self.seeds, 0)):
            if (smallest := min(values)) < least:
                raise InputError(f"{source}: reproduce.{key} has {smallest}; the least is {least}")
            if len(set(values)) < len(values):
                raise InputError(f"{source}: reproduce.{key} names a number twice: {values}")
        for name in self.methods:
            if not name or any(mark in name for mark in "/\\\0\n") or name.startswith("."):
                mend = "choose one without slashes, line breaks and a dot in front"
                problem = f"{source}: the method's name {name!r} becomes the name of a folder"
                raise InputError(f"{problem}; {mend}")

    def narrowed(
        self, source: str, bits: Numbers = None, seeds: Numbers = None, methods: Names = None
    ) -> "Plan":
        """The plan with other code lengths or seeds, or some of its methods; see :meth:`check`."""
        unknown = [name for name in methods or () if name not in self.methods]
        if unknown:
            raise InputError(
                f"{source} has no method {unknown[0]!r}; it has {', '.join(self.methods)}"
            )
        plan = replace(
            self,
            bits=list(self.bits if bits is None else bits),
            seeds=list(self.seeds if seeds is None else seeds),
            methods={name: self.methods[name] for name in methods or self.methods},
            rankings={k: v for k, v in self.rankings.items() if k in (methods or self.methods)},
        )
        plan.check(source)
        return plan

    def quantiser_cells(self) -> list[Cell]:
        """Rows of product quantisers, which are scored beside the cells."""
        pairs = product(self.quantisers, self.bits)
        return [Cell(f"{kind} (asymmetric)", bits, 0) for kind, bits in pairs]

    def ranking_cells(self) -> dict[Cell, tuple[Cell, str]]:
        """Rows of other rankings: the cell whose codes they rank by, and how."""
        return {
            cell._replace(method=cell.method + ENDINGS[kind]): (cell, kind)
            for cell in self.cells()
            for kind in self.rankings.get(cell.method, ())
        }

    def cells(self) -> list[Cell]:
        """All cells, in the order in which they are run."""
        return [Cell(*one) for one in product(self.methods, self.bits, self.seeds)]
