"""The site says what is there: commands, plans, options and files exist, Python blocks run."""

import argparse
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from udmsh_pl.cli import COMMANDS, LIGHTNING
from udmsh_pl.runs.lightning_cli import CONFIG
from udmsh_pl.safe.shipped import plan_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OVERRIDES = ("--trainer", "--model", "--data")
LIGHTNINGS_OWN = (*OVERRIDES, *CONFIG, "--ckpt_path", "--untrained", "--seed_everything")


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


COMMAND_LINES = sorted(
    {
        line.partition("#")[0].strip()
        for page in [*PAGES, ROOT / "README.md"]
        for block in blocks(page, "")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("udmsh ")
    }
)


def check(line: str) -> None:
    """Raise where a line names a command, a plan or an option that is not there."""
    command, *rest = shlex.split(line)[1:]
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if command in LIGHTNING:
        assert {option.partition(".")[0] for option in options} <= set(LIGHTNINGS_OWN), options
        for option, value in itertools.pairwise(rest):
            if option in CONFIG:
                plan_file(str(ROOT / value) if "/" in value else value)
        return
    assert command in COMMANDS
    module = importlib.import_module(f"udmsh_pl.commands.{command}")
    parser = argparse.ArgumentParser(command, exit_on_error=False)
    module.add_arguments(parser)
    args, others = parser.parse_known_args(rest)
    assert getattr(module, "TAKES_OVERRIDES", False) or not others
    assert all(word.startswith(OVERRIDES) for word in others if word.startswith("--")), others
    if command == "reproduce":
        plan_file(str(ROOT / args.plan) if "/" in args.plan else args.plan)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_are_there(line: str) -> None:
    if "X.yaml" in line or "PLAN" in line:
        pytest.skip("a placeholder stands for the plan")
    check(line)


@pytest.mark.parametrize(
    "line",
    ["udmsh reproduce sampel", "udmsh reproduec sample", "udmsh evaluate --quary q.npz",
     "udmsh fit --config sample --modell.bits 3"],
)  # fmt: skip
def test_a_wrong_line_is_found(line: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(line)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_python_blocks_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


def test_every_page_is_in_the_menu_and_every_picture_there() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    menu = re.findall(r"[\w/-]+\.md", str(config["nav"]))
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES} == set(menu)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (page.parent / target).is_file(), f"{page}: {target}"
        for included in re.findall(r'--8<-- "([^"]+)"', text):
            assert (ROOT / included.partition(":")[0]).is_file(), f"{page}: {included}"
