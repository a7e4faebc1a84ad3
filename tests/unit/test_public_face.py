"""``import udmsh_pl`` is cheap, and gives every public name when it is touched."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import udmsh_pl
from udmsh_pl import retrieval

OUT_OF_PLACE = ("lightning", "pytorch_lightning", "timm", "wandb", "faiss")
HEAVY = (*OUT_OF_PLACE, "torch", "numpy", "torchmetrics")


def loaded(code: str) -> set[str]:
    """Top-level modules in memory after some code, in a process of its own."""
    told = f"{code}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("udmsh_pl", HEAVY),
        ("udmsh_pl.images", OUT_OF_PLACE),
        ("udmsh_pl.retrieval", (*OUT_OF_PLACE, "torch")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    found = loaded(f"import {module}")
    assert module in found
    assert found.isdisjoint(unwanted)


def test_a_name_loads_its_own_module_and_no_other() -> None:
    found = loaded("import udmsh_pl; udmsh_pl.pack_codes")
    assert "udmsh_pl.retrieval.codes" in found
    assert found.isdisjoint({"torch", "lightning", "faiss", "udmsh_pl.models", "udmsh_pl.data"})


@pytest.mark.parametrize("package", [udmsh_pl, retrieval], ids=lambda package: package.__name__)
def test_every_public_name_is_there(package) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'evaluate_code'"):
        package.evaluate_code  # noqa: B018


@pytest.mark.parametrize("package", [udmsh_pl, retrieval], ids=lambda package: package.__name__)
def test_names_modules_and_types_agree(package) -> None:
    """Three lists say what is public: for people, for the loader and for type checkers."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {one: module for module, names in package._NAMES_OF.items() for one in names.split()}
    assert typed == lazy
    assert typed.keys() <= set(package.__all__)
    assert len(package.__all__) == len(set(package.__all__))
