import argparse
import csv

import numpy as np
import pytest
import scipy.io
import torch

from udmsh_pl import cli
from udmsh_pl.commands import evaluate
from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import evaluate_codes, pack_codes

BITS = 12


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    query, database = rng.standard_normal((20, BITS)), rng.standard_normal((300, BITS))
    return query, database, rng.random((20, 5)) < 0.3, rng.random((300, 5)) < 0.3


@pytest.fixture(scope="module")
def expected(data):
    query, database, query_labels, database_labels = data
    return evaluate_codes(
        pack_codes(query), pack_codes(database), query_labels, database_labels, BITS, ks=(10, None)
    )


def score(*words):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    args = parser.parse_args([str(word) for word in words] + ["--k", "10", "all"])
    return evaluate.score(args, (10, None))


def save_npz(folder, data):
    query, database, query_labels, database_labels = data
    codes = {"query_codes": pack_codes(query), "database_codes": pack_codes(database), "bits": BITS}
    np.savez(
        folder / "codes.npz", **codes, query_labels=query_labels, database_labels=database_labels
    )
    return [folder / "codes.npz"]


def save_two_npz(folder, data):
    for name, codes, labels in (("q", data[0], data[2]), ("d", data[1], data[3])):
        np.savez(folder / f"{name}.npz", codes=np.sign(codes).astype(np.int8), labels=labels)
    return ["--query", folder / "q.npz", "--database", folder / "d.npz"]


def save_mat(folder, data):
    """Codes column by column, as DeepHash-style .mat files have them."""
    arrays = {
        "qB": np.sign(data[0]).T,
        "rB": np.sign(data[1]).T,
        "queryL": data[2] * 1.0,
        "retrievalL": data[3] * 1.0,
    }
    scipy.io.savemat(folder / "a.mat", arrays)
    return [folder / "a.mat"]


def save_pt(folder, data):
    for name, codes, labels in (("q", data[0], data[2]), ("d", data[1], data[3])):
        torch.save(
            {"codes": torch.from_numpy(codes).half(), "labels": torch.from_numpy(labels)},
            folder / f"{name}.pt",
        )
    return ["--query", folder / "q.pt", "--database", folder / "d.pt"]


def save_text(folder, data):
    """One file written without blanks, one with commas and -1/+1; labels of their own."""
    np.savetxt(folder / "q.txt", data[0] >= 0, fmt="%d", delimiter="")
    np.savetxt(folder / "d.csv", np.sign(data[1]), fmt="%d", delimiter=",")
    np.savetxt(folder / "ql.txt", data[2], fmt="%d")
    np.save(folder / "dl.npy", data[3])
    names = (
        ("--query", "q.txt"),
        ("--database", "d.csv"),
        ("--query-labels", "ql.txt"),
        ("--database-labels", "dl.npy"),
    )
    return [word for option, name in names for word in (option, folder / name)]


def save_named(folder, data):
    arrays = dict(zip("abcd", data, strict=True))
    np.savez(folder / "odd.npz", **arrays)
    options = ("--query", "--database", "--query-labels", "--database-labels")
    return [
        word
        for option, name in zip(options, "abcd", strict=True)
        for word in (option, f"{folder}/odd.npz:{name}")
    ]


@pytest.mark.parametrize("save", [save_npz, save_two_npz, save_mat, save_pt, save_text, save_named])
def test_every_format_gives_the_same_numbers(tmp_path, data, expected, save):
    report = score(*save(tmp_path, data))
    assert report.bits == BITS
    for field in ("map", "map_best", "map_worst", "map_id"):
        assert getattr(report, field) == getattr(expected, field)


def test_external_bit_order_of_packed_codes_changes_nothing(tmp_path, data, expected):
    query, database, query_labels, database_labels = data
    for name, codes, labels in (("q", query, query_labels), ("d", database, database_labels)):
        np.savez(tmp_path / f"{name}.npz", codes=np.packbits(codes >= 0, axis=1), labels=labels)
    report = score("--query", tmp_path / "q.npz", "--database", tmp_path / "d.npz", "--bits", BITS)
    assert report.map == expected.map


def test_class_numbers_equal_one_hot(tmp_path, data):
    query, database = (pack_codes(codes) for codes in data[:2])
    classes = np.arange(20) % 4 + 7, np.arange(300) % 4 + 7
    arrays = {"query_codes": query, "database_codes": database, "bits": BITS}
    np.savez(
        tmp_path / "codes.npz",
        **arrays,
        query_labels=classes[0],
        database_labels=classes[1][:, None],
    )
    one_hot = [c[:, None] == np.arange(7, 11) for c in classes]
    assert (
        score(tmp_path / "codes.npz").map
        == evaluate_codes(query, database, *one_hot, BITS, ks=(10, None)).map
    )


def brute_force(data, relevant):
    """Mean average precision over all orders of tied items, by drawing many."""
    query, database = (codes >= 0 for codes in data[:2])
    rng, total = np.random.default_rng(1), []
    for number, code in enumerate(query):
        distance = (code != database).sum(axis=1)
        scores = []
        for _ in range(60):
            order = np.lexsort((rng.random(len(database)), distance))
            hits = relevant[number][order]
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            scores.append(precision[hits].mean() if hits.any() else 0.0)
        total.append(np.mean(scores))
    return np.mean(total)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float64])
def test_one_label_column_is_a_label_and_no_class(tmp_path, data, kind):
    rng = np.random.default_rng(3)
    query_labels, database_labels = rng.random((20, 1)) < 0.4, rng.random((300, 1)) < 0.4
    relevant = query_labels @ database_labels.T  # both carry it; that both lack it means nothing
    expected = brute_force(data, relevant)
    classes = brute_force(data, query_labels == database_labels.T)
    assert abs(expected - classes) > 0.2
    arrays = {"query_codes": data[0], "database_codes": data[1]}
    labels = {"query_labels": query_labels, "database_labels": database_labels}
    np.savez(tmp_path / "a.npz", **arrays, **{n: a.astype(kind) for n, a in labels.items()})
    assert score(tmp_path / "a.npz").map[None] == pytest.approx(expected, abs=0.005)
    flat = {name: array.ravel().astype(kind) for name, array in labels.items()}
    np.savez(tmp_path / "a.npz", **arrays, **flat)
    wanted = expected if kind is bool else classes  # numbers along one axis are classes
    assert score(tmp_path / "a.npz").map[None] == pytest.approx(wanted, abs=0.005)


def test_a_binary_query_column_beside_classes_is_classes(tmp_path, data):
    classes = np.arange(20) % 2, np.arange(300) % 4
    arrays = {"query_codes": data[0], "database_codes": data[1]}
    labels = {"query_labels": classes[0][:, None], "database_labels": classes[1][:, None]}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    expected = brute_force(data, classes[0][:, None] == classes[1])
    assert score(tmp_path / "a.npz").map[None] == pytest.approx(expected, abs=0.005)


def test_labels_that_happen_to_have_as_many_values_as_items(tmp_path, data):
    arrays = {"query_codes": data[0], "database_codes": data[1], "database_labels": data[3]}
    np.savez(tmp_path / "a.npz", **arrays, query_labels=np.ones((4, 5), dtype=bool))
    with pytest.raises(InputError, match="query_labels has 4 rows"):
        score(tmp_path / "a.npz")


@pytest.mark.parametrize("bits", [np.nan, np.inf, 0.5, -3, 0])
def test_a_code_length_that_is_none(tmp_path, data, bits):
    arrays = dict(zip(("qB", "rB", "query_labels", "database_labels"), data, strict=True))
    np.savez(tmp_path / "a.npz", **arrays, bits=bits)
    with pytest.raises(InputError, match=r"a\.npz: bits is .*: give a whole number"):
        score(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_sigmoid_outputs_are_refused_and_thresholded_ones_taken(tmp_path, data, expected, kind):
    names = ("query_codes", "database_codes", "query_labels", "database_labels")
    inside = [(1 / (1 + np.exp(-codes))).astype(kind) for codes in data[:2]]
    np.savez(tmp_path / "a.npz", **dict(zip(names, (*inside, *data[2:]), strict=True)))
    with pytest.raises(InputError, match=r"sigmoid are no codes.*subtract 0.5.*or -1/"):
        score(tmp_path / "a.npz")
    for codes in ([one - 0.5 for one in inside], [(one > 0.5) * 1.0 for one in inside]):
        np.savez(tmp_path / "a.npz", **dict(zip(names, (*codes, *data[2:]), strict=True)))
        assert score(tmp_path / "a.npz").map == expected.map


def test_table_is_printed_and_written(tmp_path, data, expected, capsys):
    words = [str(word) for word in save_npz(tmp_path, data)]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", *words, "--k", "10", "all", "--out", str(tmp_path / "o.csv")])
    printed = capsys.readouterr().out
    assert (
        f"| mAP@10 | {expected.map[10]:.4f} | {expected.map_worst[10]:.4f} | "
        f"{expected.map_best[10]:.4f} |" in printed
    )
    assert f"anywhere from {expected.map_worst[10]:.4f} to {expected.map_best[10]:.4f}" in printed
    with (tmp_path / "o.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[1]["expected"]) == expected.map[None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which codes"),
        (["absent.npz"], "cannot read this file of codes (No such file"),
        (["x" * 300 + ".npz"], "File name too long"),
        (["codes.npz", "--out", "folder.csv"], "--out folder.csv is a folder"),
        (["codes.npz", "--out", "codes.npz/a.csv"], "--out codes.npz/a.csv: "),
        (["codes.npz", "--bits", "13"], "bits is 12 and 13"),
        (["codes.npz", "--k", "0"], "--k 0"),
        (["codes.npz", "--out", "table.doc"], ".csv or .md"),
        (["codes.npz", "--threads", "0"], "--threads is 0"),
        (["codes.npz:nothing"], "holds no array 'nothing'"),
        (["codes.npz", "--query-labels", "short.npy"], "query_labels has 3 rows"),
        (["codes.npz", "--query", "alone.npy"], "names no query labels"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, data, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    save_npz(tmp_path, data)
    (tmp_path / "folder.csv").mkdir()
    np.save("short.npy", data[2][:3])
    np.save("alone.npy", np.sign(data[0]))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", *words])
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("dtype", ["U8", "S8"])
def test_names_of_classes_equal_class_numbers(tmp_path, data, dtype):
    query, database, *_ = data
    names = np.array(["cat", "dog", "sea"])
    numbers = np.arange(20) % 3, np.arange(300) % 3
    for file, labels in (("n", numbers), ("t", [names[one].astype(dtype) for one in numbers])):
        np.savez(
            tmp_path / f"{file}.npz", query_codes=pack_codes(query), query_labels=labels[0],
            database_codes=pack_codes(database), database_labels=labels[1], bits=BITS,
        )  # fmt: skip
    assert score(tmp_path / "t.npz").map == score(tmp_path / "n.npz").map
    np.savez(tmp_path / "c.npz", codes=np.array([["a", "b"]] * 9), labels=np.arange(9))
    with pytest.raises(InputError, match="codes are text"):
        score(tmp_path / "c.npz")


def test_zeros_among_signs_are_counted_in_one_line(tmp_path, data, caplog):
    query, database, query_labels, database_labels = data
    signs = np.sign(query), np.sign(database)
    signs[1][3, :4] = 0
    np.savez(
        tmp_path / "z.npz", query_codes=signs[0].astype(np.int8), query_labels=query_labels,
        database_codes=signs[1].astype(np.int8), database_labels=database_labels,
    )  # fmt: skip
    score(tmp_path / "z.npz")
    assert [one.getMessage().partition(": ")[2] for one in caplog.records] == [
        "4 zeros among -1/+1 codes count as +1"
    ]


def test_lengths_that_differ_are_named(tmp_path, data):
    np.savez(
        tmp_path / "codes.npz",
        qB=data[0],
        rB=data[1][:, :8],
        query_labels=data[2],
        database_labels=data[3],
    )
    with pytest.raises(InputError, match="query codes have 12 bits, database codes 8"):
        score(tmp_path / "codes.npz")
