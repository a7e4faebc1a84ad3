"""Plans by name, in a clone and in a wheel, and names that are nearly right."""

from pathlib import Path

import pytest

from udmsh_pl import cli
from udmsh_pl.errors import InputError
from udmsh_pl.reports.citation import citations
from udmsh_pl.runs.cells import Configuration
from udmsh_pl.runs.lightning_cli import long_form
from udmsh_pl.safe.shipped import plan_file, plans

ROOT = Path(__file__).resolve().parents[3]


def test_every_yaml_of_the_clone_is_a_plan() -> None:
    assert set(plans()) == {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert {"sample", "cifar10", "nuswide", "mirflickr", "coco", "compare"} <= set(plans())


@pytest.mark.parametrize("name", sorted(plans()))
def test_every_setting_of_every_plan_is_one_that_its_method_has(name: str) -> None:
    configuration = Configuration(plan_file(name), [])
    assert {cell.method for cell in configuration.plan.cells()} == set(configuration.plan.methods)


def test_a_wheel_holds_them_inside(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "only.yaml").touch()
    assert plans(tmp_path) == {"only": tmp_path / "experiments" / "only.yaml"}


def test_a_plan_is_a_file_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_file("sample").name == "sample.yaml"
    Path("sample").mkdir()  # a folder is no plan
    assert plan_file("sample").is_absolute()
    Path("sample.yaml").touch()
    assert plan_file("sample.yaml") == Path("sample.yaml")
    for wrong, near in (
        ("sampel", "sample"),
        ("cifar", "cifar10"),
        ("runs/nuswid.yaml", "nuswide"),
    ):
        with pytest.raises(InputError, match=f"{wrong} is neither .* did you mean {near}?"):
            plan_file(wrong)
    with pytest.raises(InputError, match=r"the plans are .*sample.*, or give a path"):
        plan_file("xyz")


def test_config_takes_a_name_too() -> None:
    sample = str(plans()["sample"])
    assert long_form(["fit", "--config", "sample", "--model.bits", "sample"]) == [
        "fit", "--config", sample, "--model.bits", "sample",
    ]  # fmt: skip
    assert long_form(["fit", "--config=sample"]) == ["fit", f"--config={sample}"]


def test_help_lists_the_plans(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = capsys.readouterr().out
    assert "sample" in told
    assert "--model.help" in told


def test_the_paper_and_the_software_can_be_cited() -> None:
    paper, software = citations()
    assert "author = {Qin and Huang and Wei and Xie and Zhang}" in paper
    assert "pages = {2852--2865}" in paper
    assert "title = {udmsh-pl}" in software


def test_a_plan_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"model: \xff")
    with pytest.raises(InputError, match=r"plan.yaml is not UTF-8 text .* save it as UTF-8"):
        plan_file(str(tmp_path / "plan.yaml"))
