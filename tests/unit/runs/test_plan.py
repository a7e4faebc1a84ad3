"""A plan: cells in order, narrowed, and wrong numbers named."""

import pytest

from udmsh_pl.errors import InputError
from udmsh_pl.reports.table_rows import Cell
from udmsh_pl.runs.cells import Configuration
from udmsh_pl.runs.plan import Plan
from udmsh_pl.safe.shipped import plan_file

PLAN = Plan([8, 16], [0, 1], [10, None], {"a": None, "b": {"class_path": "x.Y"}})


def test_cells_in_order() -> None:
    cells = PLAN.narrowed("x.yaml", bits=[16], methods=["b", "a"]).cells()
    assert cells == [Cell("b", 16, 0), Cell("b", 16, 1), Cell("a", 16, 0), Cell("a", 16, 1)]
    assert cells[0].name == "b-16-0"


def test_one_option_fuses_the_features_of_every_method() -> None:
    """But for those that fuse them in any case, which get the backbone's features."""
    configuration = Configuration(plan_file("sample"), ["--model.fused", "true"])
    learned = {name: one for name, one in configuration.methods.items() if not one.is_shallow}
    fused = {name: one.build(Cell(name, 16, 0)).fused for name, one in learned.items()}
    assert fused == {"udmsh": True, "udmsh-plus": False}
    assert configuration.datamodule().fused  # what shallow methods read
    assert not configuration.datamodule({"fused": False}).fused


@pytest.mark.parametrize(
    ("narrow", "problem"),
    [
        ({"methods": ["c"]}, "x.yaml has no method 'c'; it has a, b"),
        ({"bits": [0]}, r"x.yaml: reproduce.bits has 0; the least is 1"),
        ({"seeds": [-1]}, r"reproduce.seeds has -1"),
        ({"bits": []}, r"reproduce.bits is empty"),
        ({"seeds": [1, 1]}, r"reproduce.seeds names a number twice"),
    ],
)
def test_wrong_numbers_are_named(narrow: dict[str, list[object]], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        PLAN.narrowed("x.yaml", **narrow)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a\\b", "a\nb"])
def test_a_method_names_a_folder(name: str) -> None:
    with pytest.raises(InputError, match="becomes the name of a folder"):
        Plan([8], [0], [None], {name: None}).check("x.yaml")
