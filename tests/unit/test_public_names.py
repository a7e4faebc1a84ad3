"""Tests use public names of the package: they patch no constant and touch nothing private."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import udmsh_pl

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = "udmsh_pl"
PATCHES = ("setattr", "delattr", "patch", "patch.object")

# a test file and a name that it may use although it is private or a constant, with the reason
ALLOWED = {
    ("unit/test_public_face.py", "_NAMES_OF"): "compares the loader's list with __all__",
    # sizes at which a collection counts as large: no test can make a million pictures
    ("unit/search/test_large.py", "EXACT_BELOW"): "a million pictures",
    ("unit/search/test_large.py", "IN_MEMORY"): "an index of 32 MB",
    ("unit/serve/test_api.py", "IN_MEMORY"): "an index of 32 MB",
    ("unit/search/test_index.py", "MOST_SEGMENTS"): "sixteen updates",
    # steps between two safe points: a test kills between two
    ("unit/features/test_extract.py", "BLOCK"): "512 images",
    ("unit/features/test_shards.py", "COPIED_AT_ONCE"): "4,096 rows",
}


def hidden(name: str) -> bool:
    """Whether a name is private: ``_path``, not ``__len__``."""
    return name.startswith("_") and not name.endswith("__")


def hidden_names(root: Path) -> set[str]:
    """Private functions, classes and attributes that the package defines."""
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if hidden(name)}


HIDDEN = hidden_names(Path(udmsh_pl.__file__).parent)


def imported(tree: ast.AST) -> dict[str, str]:
    """Names that a file imports, and what each stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname or one.name.split(".")[0]: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return found


def breaches(text: str) -> Iterator[str]:
    """Private names of the package that a test imports, patches, reads or writes, and constants
    that it patches or writes.
    """
    tree = ast.parse(text)
    names = imported(tree)
    foreign = {name for name, full in names.items() if full.split(".")[0] != PACKAGE}
    ours = names.keys() - foreign
    for name in ours:
        yield from (part for part in names[name].split(".") if hidden(part))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = ast.unparse(node).split(".")[0]
            if node.attr in HIDDEN and root not in {"self", "cls"} | foreign:
                yield node.attr
            if isinstance(node.ctx, ast.Store) and node.attr.isupper() and root in ours:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(PATCHES) and node.args:
            target, *rest = node.args
            path = target.value if isinstance(target, ast.Constant) else ""
            if str(path).split(".")[0] == PACKAGE:
                name = str(path).rpartition(".")[2]
            elif ast.unparse(target).split(".")[0] in ours and isinstance(rest[0], ast.Constant):
                name = str(rest[0].value)
            else:
                continue
            if hidden(name) or name.isupper():
                yield name


FILES = [path for path in sorted(TESTS.rglob("*.py")) if path != Path(__file__)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_uses_public_names(path: Path) -> None:
    file = str(path.relative_to(TESTS))
    found = set(breaches(path.read_text(encoding="utf-8")))
    assert not {name for name in found if (file, name) not in ALLOWED}


def test_every_exception_is_needed() -> None:
    for file, name in ALLOWED:
        assert name in set(breaches((TESTS / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("monkeypatch.setattr('udmsh_pl.search.store.IN_MEMORY', 0)", "IN_MEMORY"),
        ("monkeypatch.setattr(store, 'IN_MEMORY', 0)", "IN_MEMORY"),
        ("store.IN_MEMORY = 0", "IN_MEMORY"),
        ("monkeypatch.setattr(store, '_rows', None)", "_rows"),
        ("store.open()._splits", "_splits"),
        ("from udmsh_pl.search.store import _rows", "_rows"),
    ],
)
def test_a_breach_is_found(line: str, name: str) -> None:
    text = f"from udmsh_pl.search import store\n{line}"
    assert set(breaches(text)) == {name}


@pytest.mark.parametrize(
    "line",
    [
        "assert store.IN_MEMORY > 0",
        "monkeypatch.setattr(store, 'open_rows', None)",
        "monkeypatch.setattr('lightning.pytorch.loggers.wandb._WANDB_AVAILABLE', False)",
        "import os; os._exit(1)",
        "self._splits = 1",
    ],
)
def test_public_names_are_no_breach(line: str) -> None:
    assert not set(breaches(f"from udmsh_pl.search import store\n{line}"))
