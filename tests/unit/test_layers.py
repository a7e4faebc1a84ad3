"""Each room knows only those before it: the imports of ``src`` hold no circle and no way back.

All imports count: at the top of a file, inside functions, for type checkers alone, and by
``import_module``. Inside a room modules must not go round either. One rule makes this precise:
**a name that a package's ``__init__`` takes from a module of its own is that module's**.
``from udmsh_pl.retrieval import BinaryIndex`` is an import of ``udmsh_pl.retrieval.index``,
wherever it stands; and the imports of an ``__init__`` from below itself are only such names, so a
module may import its sibling through the package. Whatever else an ``__init__`` imports or defines
counts like that of any module.
"""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import udmsh_pl

SOURCE = Path(udmsh_pl.__file__).parent

# the rooms in the order of CONTRIBUTING.md: a line knows the lines above it; those beside each
# other do not know each other
ROOMS = """
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
    serve
    commands
    cli
"""
HEIGHT = {
    name.strip(): height
    for height, line in enumerate(ROOMS.strip().splitlines())
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
    """Names that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
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


def imports(root: Path) -> Imports:
    """The modules of the package that each of them imports."""
    files = modules(root)
    named = {
        module: list(imported(ast.parse(path.read_text(encoding="utf-8")), module))
        for module, path in files.items()
    }
    # the names that an __init__ takes from below itself, and where each is defined
    below = {
        f"{module}.{name.rpartition('.')[2]}": name
        for module, path in files.items()
        if path.name == "__init__.py"
        for name in named[module]
        if name.startswith(f"{module}.") and name not in files
    }

    def target(name: str) -> str:
        """The module of the package that an imported name belongs to."""
        while name not in files and below.get(name, name) != name:
            name = below[name]
        # `from a.b import c` imports the module a.b.c if there is one, else a name of a.b
        return name if name in files else name.rpartition(".")[0]

    found: Imports = {}
    for module, path in files.items():
        names = named[module]
        if path.name == "__init__.py":
            names = [name for name in names if not name.startswith(f"{module}.")]
        found[module] = {target(name) for name in names} & files.keys()
    return found


def room(module: str) -> str:
    """First part of a module's name below the package, ``errors`` of ``udmsh_pl.errors``."""
    return module.split(".")[1]


def ways_back(found: Imports) -> list[str]:
    """Imports of a room that is not before the importing one."""
    return [
        f"{module} imports {target}"
        for module, targets in sorted(found.items())
        for target in sorted(targets)
        if "." in module and "." in target and room(module) != room(target)
        if HEIGHT[room(target)] >= HEIGHT[room(module)]
    ]


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


def test_every_module_stands_in_a_room() -> None:
    here = {room(module) for module in modules(SOURCE) if "." in module} - {"__main__"}
    assert here <= HEIGHT.keys(), "write the new room down in ROOMS, and in CONTRIBUTING.md"


def test_the_rooms_are_those_of_contributing() -> None:
    text = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    rows = [[word.strip("`/") for word in row.split()] for row in listed]
    expected = [[name.strip() for name in line.split("|")] for line in ROOMS.strip().splitlines()]
    assert rows[: len(expected)] == expected


def test_no_room_imports_a_later_one() -> None:
    found = imports(SOURCE)
    del found["udmsh_pl.__main__"]
    assert not found["udmsh_pl"]  # its names load when they are used
    assert not ways_back(found), "\n".join(ways_back(found))


def test_no_imports_go_round() -> None:
    assert not circle(imports(SOURCE)), " -> ".join(circle(imports(SOURCE)))


WAYS = [
    "from udmsh_pl.cli import main",
    "from udmsh_pl import cli",
    "import udmsh_pl.cli as far",
    "def late():\n    from udmsh_pl.cli import main",
    "import importlib\nimportlib.import_module('udmsh_pl.cli')",
]


def package(folder: Path, texts: dict[str, str]) -> Path:
    """A package of the given modules below ``folder``."""
    root = folder / "udmsh_pl"
    for name, text in {"__init__": "", **texts}.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("typed", [False, True], ids=["run", "typed"])
@pytest.mark.parametrize("line", WAYS)
def test_a_way_back_is_found_however_it_is_written(line: str, typed: bool, tmp_path: Path) -> None:
    if typed:
        line = "if TYPE_CHECKING:\n" + textwrap.indent(line, "    ")
    found = imports(package(tmp_path, {"errors": line, "cli": "import udmsh_pl.errors"}))
    assert ways_back(found) == ["udmsh_pl.errors imports udmsh_pl.cli"]
    assert circle(found) == ["udmsh_pl.cli", "udmsh_pl.errors", "udmsh_pl.cli"]


def test_a_circle_inside_a_room_is_found(tmp_path: Path) -> None:
    one, other = "udmsh_pl.safe.a", "udmsh_pl.safe.b"
    texts = {
        "safe/__init__": f"from {one} import A",
        "safe/a": f"if TYPE_CHECKING:\n    from {other} import B\nclass A: pass",
        "safe/b": "def late():\n    from udmsh_pl.safe import A",
    }
    assert circle(imports(package(tmp_path, texts))) == [one, other, one]


def test_a_name_of_a_package_is_the_module_that_defines_it(tmp_path: Path) -> None:
    texts = {
        "safe/__init__": "if TYPE_CHECKING:\n    from udmsh_pl.safe.a import A",
        "safe/a": "class A: pass",
        "safe/b": "from udmsh_pl.safe import A",
        "images": "from udmsh_pl.safe import A",
    }
    found = imports(package(tmp_path, texts))
    assert found["udmsh_pl.safe.b"] == found["udmsh_pl.images"] == {"udmsh_pl.safe.a"}
    assert not circle(found)
    (tmp_path / "udmsh_pl/safe/__init__.py").write_text("import udmsh_pl.images\nA = 1")
    found = imports(tmp_path / "udmsh_pl")
    assert ways_back(found) == ["udmsh_pl.safe imports udmsh_pl.images"]
    assert circle(found)
