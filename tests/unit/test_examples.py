"""The examples in the docstrings of the public functions say what happens."""

import doctest
import importlib
import inspect

import pytest

import udmsh_pl
from udmsh_pl import retrieval

MODULES = (
    "udmsh_pl.similarity.losses",
    "udmsh_pl.similarity.structure",
    "udmsh_pl.similarity.manifold",
)

# what a function returns: the function's own example shows them
RESULTS = {"CodeQuality", "HalfGaussians", "PairedDifference"}


def public(name: str) -> dict[str, object]:
    """Functions and classes that a module defines and does not hide."""
    module = importlib.import_module(name)
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == name
    }


PUBLIC: dict[str, object] = {name: getattr(retrieval, name) for name in retrieval.__all__}
PUBLIC["udmsh_pl"] = udmsh_pl
for module in MODULES:
    PUBLIC |= public(module)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - RESULTS))
def test_every_public_function_has_an_example_that_runs(name: str) -> None:
    [test] = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name)
    assert test.examples, f"{name} has no example"
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=told.append)
    assert not result.failed, "".join(told)


def test_an_example_that_is_wrong_is_found() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(wrong, out=lambda _: None).failed == 1
