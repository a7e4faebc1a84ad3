"""Results as data: runs become ``results/*.csv``, and pages say what stands there."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scripts import collect_results, render_results
from scripts.collect_results import Lead, Value, collect, read_rows
from scripts.render_results import render_block, render_page

from udmsh_pl.errors import InputError
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.table_rows import Cell, Result, write_results
from udmsh_pl.retrieval import evaluate_codes, pack_codes

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("itq", "lsh", "udmsh-plus (labels)")
QUERIES = 12


def make_run(
    path: Path,
    commit: str | None = "a" * 40,
    methods: tuple[str, ...] = METHODS,
    bits: int = 8,
    shift: float = 0.0,
    backbone: str = "tiny frozen",
    **settings: object,
) -> Path:
    """A finished run with real codes: ITQ's hold the label in every bit, LSH's are chance."""
    directory, rows = RunDirectory(path), []
    rng = np.random.default_rng(0)
    labels = np.arange(2 * QUERIES) % 2
    for method in methods:
        for seed in (0, 1):
            cell = Cell(method, bits, seed)
            codes = rng.normal(size=(2 * QUERIES, bits))
            if method != "lsh":
                codes = codes + np.where(labels, 1.5, -1.5)[:, None]
            one_hot = np.eye(2, dtype=bool)[labels]
            query, database = slice(0, QUERIES), slice(QUERIES, None)
            packed = pack_codes(codes)
            report = evaluate_codes(
                packed[query],
                packed[database],
                one_hot[query],
                one_hot[database],
                bits,
                ks=(5, None),
            )
            directory.save_scored(
                cell, {"query_codes": packed[query], "database_codes": packed[database]}, report
            )
            stamp = {
                "settings": {"method": method, "bits": bits, "seed": seed, **settings},
                "features": {"query": "toy-1"},
            }
            (directory.folder(cell) / "done.json").write_text(json.dumps(stamp))
            for k in (5, None):
                numbers = (report.map[k] - shift, report.map_worst[k], report.map_best[k])
                rows.append(
                    Result("toy", "lists", "f" * 64, method, backbone, bits, seed, "map",
                           "all" if k is None else str(k), "expected", "retrieved", *numbers,
                           1.0, 0.1, 0.5, "0.2.0")
                )  # fmt: skip
    write_results(path / "results.csv", rows)
    facts = {"package_commit": commit, "platform": "Linux-6-x86_64", "gpus": []}
    (path / "environment.json").write_text(json.dumps(facts))
    return path


def values(folder: Path) -> list[Value]:
    return read_rows(folder / "toy.csv", Value)


def test_a_run_becomes_one_row_a_value_with_its_source(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert collect([run], tmp_path / "out") == ["toy.csv: 12 values; toy-leads.csv: 2 leads"]
    found = values(tmp_path / "out")
    with (run / "results.csv").open() as stream:
        expected = {
            (r["method"], r["seed"], r["k"], float(r["value"])) for r in csv.DictReader(stream)
        }
    assert {(v.method, str(v.seed), v.k, v.value) for v in found} == expected
    assert {(v.commit, v.hardware, len(v.settings)) for v in found} == {
        ("a" * 40, "CPU x86_64", 12)
    }
    assert len({v.settings for v in found}) == len(METHODS)  # bits and seed are no settings


def test_the_lead_is_that_of_the_scores_and_leaves_labels_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    collect([run], tmp_path / "out")
    leads = {lead.k: lead for lead in read_rows(tmp_path / "out/toy-leads.csv", Lead)}
    means = {
        method: np.mean(
            [v.value for v in values(tmp_path / "out") if (v.method, v.k) == (method, "all")]
        )
        for method in METHODS
    }
    assert (leads["all"].first, leads["all"].second, leads["all"].methods) == ("itq", "lsh", 2)
    assert leads["all"].lead == pytest.approx(means["itq"] - means["lsh"], abs=1e-4)
    assert leads["all"].lower <= leads["all"].lead <= leads["all"].upper


def test_a_method_that_read_fused_features_is_one_of_its_own(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", methods=("lsh",))
    fused = make_run(
        tmp_path / "fused", methods=("itq", "lsh"), backbone="tiny frozen, fused feature"
    )
    collect([plain, fused], tmp_path)
    assert {value.method for value in read_rows(tmp_path / "toy.csv", Value)} == {
        "lsh", "itq (fused)", "lsh (fused)",
    }  # fmt: skip
    leads = read_rows(tmp_path / "toy-leads.csv", Lead)
    assert [lead.first for lead in leads] == ["itq (fused)"] * 2
    assert {lead.methods for lead in leads} == {3}


def test_collecting_again_changes_no_byte_and_a_new_value_replaces_the_old(tmp_path: Path) -> None:
    out = tmp_path / "out"
    collect([make_run(tmp_path / "run")], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    collect([tmp_path / "run"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    old = [v.value for v in values(out)]
    collect([make_run(tmp_path / "other", shift=0.25)], out)
    assert [v.value for v in values(out)] == pytest.approx([value - 0.25 for value in old])


def test_runs_of_other_lengths_join_and_leads_need_the_scores_of_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    collect([make_run(tmp_path / "a")], out)
    before = read_rows(out / "toy-leads.csv", Lead)
    collect([make_run(tmp_path / "b", bits=16)], out)
    assert {v.bits for v in values(out)} == {8, 16}
    after = read_rows(out / "toy-leads.csv", Lead)
    assert {lead.bits for lead in after} == {8, 16}
    assert [lead for lead in after if lead.bits == 8] == before
    one = make_run(tmp_path / "c", methods=("lsh",))
    lines = collect([one], out)
    assert "none at 8 bits (give all runs of a code length together)" in lines[0]
    assert {lead.bits for lead in read_rows(out / "toy-leads.csv", Lead)} == {16}


def test_the_lead_of_the_best_two_needs_their_scores_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    collect([make_run(tmp_path / "all", methods=("itq", "sdc", "lsh"))], out)
    before = read_rows(out / "toy-leads.csv", Lead)
    collect([make_run(tmp_path / "best", methods=("itq", "sdc"))], out)
    assert read_rows(out / "toy-leads.csv", Lead) == before
    assert {lead.methods for lead in before} == {3}
    collect([make_run(tmp_path / "others", methods=("itq", "lsh"))], out)
    assert not read_rows(out / "toy-leads.csv", Lead)  # sdc is second, and has no scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"commit": "b" * 40, "methods": ("lsh",)},
            r"2 commits .*aaaaaaaaaaaa: itq.*--mix-commits",
        ),
        ({"commit": "b" * 40 + "+changes"}, "uncommitted changes"),
        ({"bits": 16, "methods": ("lsh",), "init_args": {"x": 1}}, "several settings of lsh"),
    ],
)
def test_what_no_table_compares_is_refused_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    out = tmp_path / "out"
    collect([make_run(tmp_path / "run")], out)
    before = (out / "toy.csv").read_bytes()
    other = make_run(tmp_path / "other", **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        collect([other], out)
    assert (out / "toy.csv").read_bytes() == before


def test_commits_are_mixed_where_that_is_asked_for(tmp_path: Path) -> None:
    collect([make_run(tmp_path / "run")], tmp_path / "out")
    other = make_run(tmp_path / "other", commit="b" * 40, methods=("lsh",))
    collect([other], tmp_path / "out", mix_commits=True)
    found = {v.method: v.commit[0] for v in values(tmp_path / "out")}
    assert found == {"itq": "a", "lsh": "b", "udmsh-plus (labels)": "a"}


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"environment\.json cannot be read"):
        collect_results.main([str(tmp_path), "--results", str(tmp_path / "out")])


PAGE = """# Toy

<!-- results: table toy bits=8 k=all -->
<!-- results end -->

Text between.

<!-- results: leads toy -->
a stale line
<!-- results end -->

<!-- results: matrix toy bits=64 -->
<!-- results end -->

<!-- results: overview toy,absent bits=8 methods=itq -->
<!-- results end -->
"""


def test_a_page_shows_the_data_and_a_change_of_either_is_found(tmp_path: Path) -> None:
    page = tmp_path / "docs/toy.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    root = ["--root", str(tmp_path)]
    collect([make_run(tmp_path / "run")], tmp_path / "results")
    with pytest.raises(SystemExit, match=r"docs/toy\.md differ"):
        render_results.main([*root, "--check"])
    assert page.read_text() == PAGE  # --check writes nothing
    render_results.main(root)
    text = page.read_text()
    best = np.mean(
        [v.value for v in values(tmp_path / "results") if (v.method, v.k) == ("itq", "all")]
    )
    assert f"{best:.3f}" in text
    assert "Text between." in text
    assert "a stale line" not in text
    assert text.index("| lsh |") < text.index("| itq |")  # as in compare.yaml
    assert "Code: `aaaaaaaaaaaa`; CPU x86_64;" in text
    assert "| mAP@ALL, 8 bits | itq | lsh | +" in text
    overview = text[text.index("toy @5 | toy @ALL") :]
    assert "| itq |" in overview
    assert "| lsh |" not in overview
    render_results.main([*root, "--check"])
    page.write_text(text.replace(f"{best:.3f}", "0.999", 1))
    with pytest.raises(SystemExit, match="make results"):
        render_results.main([*root, "--check"])


def test_a_matrix_has_the_lead_of_each_method_over_each_other(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", bits=64, methods=("sh", "itq", "lsh"))
    collect([run], tmp_path)
    [leads] = [[lead for lead in read_rows(tmp_path / "toy-leads.csv", Lead) if lead.k == "all"]]
    assert [(lead.place, lead.other_place) for lead in leads] == [(1, 2), (1, 3), (2, 3)]
    text = render_block("matrix toy k=all methods=itq,lsh", tmp_path)
    [itq_over_lsh] = [lead for lead in leads if (lead.first, lead.second) == ("itq", "lsh")]
    shown = f"{itq_over_lsh.lead:+.3f}".replace("0.", ".")
    assert f"| itq |  | **{shown}** |" in text
    assert f"| lsh | **{shown.replace('+', '-')}** |  |" in text
    assert "| sh |" not in text


def test_what_is_not_measured_yet_is_said(tmp_path: Path) -> None:
    assert "Not measured yet" in render_block("table absent bits=64", tmp_path)


def test_chosen_methods_stand_beside_references_but_not_beside_other_searches_of_codes(
    tmp_path: Path,
) -> None:
    collect([make_run(tmp_path / "run")], tmp_path)
    lines = (tmp_path / "toy.csv").read_text().splitlines()
    others = [
        line.replace(",itq,", f",{name},").replace(",expected,", ",none,")
        for name in ("pq (asymmetric)", "itq (asymmetric)", "cosine (real-valued) (fused)")
        for line in lines
        if ",itq," in line
    ]
    (tmp_path / "toy.csv").write_text("\n".join([*lines, *others, ""]))

    def shown(methods: str) -> list[str]:
        text = render_block(f"overview toy bits=8 k=all methods={methods}", tmp_path)
        names = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
        return [name.removeprefix("| ") for name in names[1:]]

    assert shown("itq") == ["pq (asymmetric)", "itq"]
    assert shown("itq,itq_(asymmetric)") == ["pq (asymmetric)", "itq", "itq (asymmetric)"]
    assert shown("lsh,cosine_(real-valued)_(fused)") == [
        "pq (asymmetric)", "cosine (real-valued) (fused)", "lsh",
    ]  # fmt: skip


def test_a_table_names_the_commits_of_its_own_lengths(tmp_path: Path) -> None:
    collect([make_run(tmp_path / "old")], tmp_path)
    newer = make_run(tmp_path / "new", commit="b" * 40, bits=16)
    collect([newer], tmp_path, mix_commits=True)
    for kind in ("table", "overview"):
        for bits, commit in ((8, "a"), (16, "b")):
            text = render_block(f"{kind} toy bits={bits}", tmp_path)
            assert f"Code: `{commit * 12}`; " in text
    assert f"Code: `{'a' * 12}`, `{'b' * 12}`; " in render_block("table toy", tmp_path)


@pytest.mark.parametrize("request_", ["tabel toy", "table toy bit=64", "table toy bits"])
def test_a_wrong_marker_is_named(tmp_path: Path, request_: str) -> None:
    with pytest.raises(InputError, match=f"results marker '{request_}'"):
        render_page(f"<!-- results: {request_} -->\n<!-- results end -->", tmp_path)


def test_committed_pages_are_those_of_the_committed_data() -> None:
    pages = render_results.pages(ROOT)
    names = {page.stem for page in pages}
    assert {"sample", "cifar10-small", "scenes", "drawings"} <= names
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert render_page(text, ROOT / "results") == text, f"{page}: run `make results`"


def test_committed_data_are_sorted_and_a_file_is_of_one_commit() -> None:
    for path in (ROOT / "results").glob("*.csv"):
        kind: type[Value] | type[Lead] = Lead if path.stem.endswith("-leads") else Value
        rows = read_rows(path, kind)
        assert [row.key for row in rows] == sorted({row.key for row in rows}), path
        assert len({row.commit for row in rows}) == 1, path
