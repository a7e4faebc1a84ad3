"""A method looks the same in every figure, and as no other one does."""

from udmsh_pl.reports.looks import COLOURS, KNOWN, look_of
from udmsh_pl.safe.shipped import plans


def test_what_is_most_often_compared_has_a_colour_of_its_own() -> None:
    colours = [look_of(method)["color"] for method in KNOWN[: len(COLOURS)]]
    assert len(set(colours)) == len(colours) == 12
    assert {"udmsh", "udmsh-plus", "itq", "lsh", "pcah", "sh"} <= set(KNOWN[: len(COLOURS)])


def test_all_differ_without_colour() -> None:
    assert len({(look_of(one)["linestyle"], look_of(one)["marker"]) for one in KNOWN}) == len(KNOWN)


def test_methods_of_the_comparison_are_known() -> None:
    import yaml

    named = yaml.safe_load(plans()["compare"].read_text())["reproduce"]["methods"]
    assert {name for name in named if "(" not in name} <= set(KNOWN)  # but for upper bounds


def test_a_foreign_method_has_the_look_of_its_name() -> None:
    assert look_of("mine") == look_of("mine") != look_of("yours")
