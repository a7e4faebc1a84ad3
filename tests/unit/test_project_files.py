"""Files for others: citation, continuous integration, issue forms are valid and agree."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github").rglob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_has_what_its_format_demands() -> None:
    found = read(ROOT / "CITATION.cff")
    assert found["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version"} <= found.keys()
    for entry in (found, *found["references"]):
        assert all("name" in one or "family-names" in one for one in entry["authors"])
    assert all(
        {"type", "title", "authors"} <= reference.keys() for reference in found["references"]
    )
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "src/udmsh_pl/__init__.py").read_text())
    assert version is not None
    assert str(found["version"]) == version[1]


def test_ci_tests_every_python_that_is_allowed() -> None:
    jobs = read(ROOT / ".github/workflows/ci.yml")["jobs"]
    allowed = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert allowed is not None
    versions = [f"3.{minor}" for minor in range(int(allowed[1]), int(allowed[2]))]
    assert jobs["test"]["strategy"]["matrix"]["python"] == versions
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    called = {line.split()[1] for line in steps if line.startswith("make ")}
    assert {"lint", "test", "test-minimum", "docs"} <= called <= set(targets)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_every_form_is_yaml(path: Path) -> None:
    found = read(path)
    assert isinstance(found, dict)
    if path.parent.name == "ISSUE_TEMPLATE" and path.stem != "config":
        assert {"name", "description", "body"} <= found.keys()
        fields = [one for one in found["body"] if one["type"] != "markdown"]
        assert len({one["id"] for one in fields}) == len(fields) > 0
