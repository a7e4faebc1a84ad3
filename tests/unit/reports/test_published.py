"""Published numbers beside ours: the file, what agrees with what, and the plans that make them."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from udmsh_pl.errors import InputError
from udmsh_pl.reports.published import (
    PublishedNumber,
    markdown_table,
    published_rows,
    read_published,
)
from udmsh_pl.reports.run_report import page
from udmsh_pl.reports.table_rows import Result
from udmsh_pl.runs.cells import Configuration
from udmsh_pl.safe.shipped import shipped

PLANS = sorted((shipped("experiments") / "published").glob("*.yaml"))
GIVEN = ["--model.backbone", "tf_efficientnet_lite0"]  # whose weights are installed

NUMBER = PublishedNumber(
    dataset="cifar10",
    method="Bi-half",
    backbone="VGG16 frozen",
    bits=64,
    k="1000",
    value=0.595,
    protocol="10,000 query / 50,000 database = train",
    source="an issue",
    our_protocol="10k-50k",
    our_backbone="vgg16 frozen",
    our_method="bihalf",
    denominator="retrieved",
    ties="unstable sort",
)
OURS = Result(
    dataset="cifar10",
    protocol="10k-50k",
    split_sha256="",
    method="bihalf",
    backbone="vgg16 frozen",
    bits=64,
    seed=0,
    metric="map",
    k="1000",
    ties="expected",
    denominator="retrieved",
    value=0.59,
    lower=0.5,
    upper=0.6,
    seconds=1.0,
    encode_seconds=1.0,
    peak_gb=1.0,
    version="0",
)


def test_every_row_of_the_file_has_a_source_a_protocol_and_a_possible_value() -> None:
    numbers = read_published()
    assert len(numbers) > 80
    for number in numbers:
        assert number.source
        assert number.protocol
        assert 0 < number.value < 1
        assert number.bits > 0
        assert number.k == "all" or int(number.k) > 0
        assert bool(number.our_method) == bool(number.our_protocol)


def test_a_number_stands_beside_the_mean_of_our_seeds() -> None:
    (row,) = published_rows([OURS, replace(OURS, seed=1, value=0.57)], [NUMBER])
    assert (row.value, row.seeds) == (pytest.approx(0.58), 2)
    assert row.spread == pytest.approx(0.02 / 2**0.5)
    assert row.difference == pytest.approx(-0.015)


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cifar100"},
        {"protocol": "1k-59k"},
        {"backbone": "vgg16 fine-tuned"},
        {"method": "udmsh"},
        {"bits": 32},
        {"k": "all"},
        {"denominator": "total"},
        {"metric": "precision"},
        {"ties": "id"},
    ],
)
def test_nothing_stands_beside_a_number_of_another_kind(other: dict[str, object]) -> None:
    assert published_rows([replace(OURS, **other)], [NUMBER]) == []


def test_a_denominator_that_nobody_knows_agrees_with_every_one() -> None:
    total = replace(OURS, denominator="total")
    assert len(published_rows([OURS, total], [replace(NUMBER, denominator="")])) == 1


def test_the_table_says_how_far_ours_is_off() -> None:
    table = markdown_table(published_rows([OURS], [NUMBER])).splitlines()
    assert len(table) == 3
    assert "| 0.5950 | 0.5900 ± 0.0000 (1) | -0.0050 | an issue |" in table[2]
    assert markdown_table([]) == ""


def test_a_wrong_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    with pytest.raises(InputError, match="does not exist"):
        read_published(path)
    header, first = (shipped("experiments") / "published.csv").read_text().splitlines()[:2]
    path.write_text(f"{header}\n{first}\n")
    assert len(read_published(path)) == 1
    for wrong in (
        first.replace("mAP@all", "recall"),
        first.replace(",16,", ",many,"),
        first.rsplit(",", 3)[0],
        f"{first},more",
    ):
        path.write_text(f"{header}\n{first}\n{wrong}\n")
        with pytest.raises(InputError, match=r"published\.csv:3: "):
            read_published(path)


@pytest.mark.parametrize("path", PLANS, ids=[path.stem for path in PLANS])
def test_each_plan_makes_every_published_number_of_its_protocol(path: Path) -> None:
    Configuration(path, GIVEN)  # refuses settings that a method does not have
    text = path.read_text()
    plan = yaml.safe_load(text)["reproduce"]
    backbone = next(name for name in ("vgg16", "alexnet") if f"backbone: {name}" in text)
    state = "fine-tuned" if "finetune: true" in text else "frozen"
    made = {
        (method, bits, "all" if k is None else str(k))
        for method in plan["methods"]
        for bits in plan["bits"]
        for k in plan["ks"]
    }
    wanted = {
        (number.our_method, number.bits, number.k)
        for number in read_published()
        if number.dataset == path.stem.split("-")[0]
        and number.our_method in plan["methods"]
        and number.our_backbone == f"{backbone} {state}"
        and f"protocol: {number.our_protocol}," in text
    }
    assert wanted
    assert wanted <= made


def test_a_report_prints_the_published_number_beside_ours(tmp_path: Path) -> None:
    beside = page(tmp_path, [OURS, replace(OURS, seed=1)], [], [], [], [])
    source = "liyunqianggyn/Deep-Unsupervised-Image-Hashing"
    assert "Beside published numbers" in beside
    assert source in beside
    assert "0.5900 ± 0.0000 (2)" in beside
    assert source not in page(tmp_path, [replace(OURS, protocol="another")], [], [], [], [])
