"""Each layer knows only those before it: the imports of ``src`` hold no circle and no way back."""

import ast
import statistics
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import udmsh_pl

SOURCE = Path(udmsh_pl.__file__).parent

# a line knows the lines above it; those beside each other do not know each other
LAYERS = """
    errors
    safe
    images
    retrieval
    similarity
    backbones
    features
    data | models
    baselines
    search
    reports
    callbacks
    runs
    commands | serve
    cli
"""
HEIGHT = {
    name.strip(): height
    for height, line in enumerate(LAYERS.strip().splitlines())
    for name in line.split("|")
}

Imports = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Dotted names of all modules below a package, and their files."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Names that a module imports, in functions too, but not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from imported(ast.Module([other], []), module)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: write imports out, from the package's name on"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)
        yield from imported(node, module)


def imports(root: Path) -> Imports:
    """The modules of the package that each of them imports."""
    files = modules(root)
    found: Imports = {}
    for module, path in files.items():
        names = set(imported(ast.parse(path.read_text(encoding="utf-8")), module))
        # `from a.b import c` imports the module a.b.c if there is one, else a name of a.b
        targets = {name if name in files else name.rpartition(".")[0] for name in names}
        found[module] = targets & files.keys()
    return found


def layer(module: str) -> str:
    """First part of a module's name below the package, ``errors`` of ``udmsh_pl.errors``."""
    return module.split(".")[1]


def ways_back(found: Imports) -> list[str]:
    """Imports of a layer that is not before the importing one."""
    wrong = []
    for module, targets in sorted(found.items()):
        for target in sorted(targets):
            if "." not in module or "." not in target or layer(module) == layer(target):
                continue  # the package's own file knows nothing; within a layer there are no steps
            if HEIGHT[layer(target)] >= HEIGHT[layer(module)]:
                wrong.append(f"{module} imports {target}")
    return wrong


def circle(found: Imports) -> list[str]:
    """A circle of imports, from a module to itself, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in sorted(found[module]):
                if around := walk(target, [*path, module]):
                    return around
            done.add(module)
        return []

    return next((around for module in sorted(found) if (around := walk(module, []))), [])


def test_every_module_stands_in_a_layer() -> None:
    here = {layer(module) for module in modules(SOURCE) if "." in module} - {"__main__"}
    assert here <= HEIGHT.keys(), "write the new layer down in LAYERS, and in CONTRIBUTING.md"


def test_no_layer_imports_a_later_one() -> None:
    found = imports(SOURCE)
    del found["udmsh_pl.__main__"]
    assert not found["udmsh_pl"]  # its names load when they are used
    assert not ways_back(found), "\n".join(ways_back(found))


def test_no_imports_go_round() -> None:
    assert not circle(imports(SOURCE)), " -> ".join(circle(imports(SOURCE)))


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules(SOURCE).values()
    }
    assert not {name: length for name, length in lengths.items() if length > 280}
    assert statistics.median(lengths.values()) <= 105


@pytest.mark.parametrize(
    "line",
    [
        "from udmsh_pl.cli import main",
        "from udmsh_pl import cli",
        "import udmsh_pl.cli as far",
        "def late():\n    from udmsh_pl.cli import main",
        "import importlib\nimportlib.import_module('udmsh_pl.cli')",
    ],
)
def test_a_way_back_is_found_however_it_is_written(line: str, tmp_path: Path) -> None:
    root = tmp_path / "udmsh_pl"
    root.mkdir()
    for name, text in {"__init__": "", "errors": line, "cli": "import udmsh_pl.errors"}.items():
        (root / f"{name}.py").write_text(text)
    found = imports(root)
    assert ways_back(found) == ["udmsh_pl.errors imports udmsh_pl.cli"]
    assert circle(found) == ["udmsh_pl.cli", "udmsh_pl.errors", "udmsh_pl.cli"]
    (root / "errors.py").write_text("if TYPE_CHECKING:\n" + textwrap.indent(line, "    "))
    assert ways_back(imports(root)) == circle(imports(root)) == []
