"""The manifest parser."""

import csv
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udmsh_pl.errors import InputError
from udmsh_pl.images.manifest import read_manifest


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def message_of(action: Callable[[], object]) -> str:
    """What an InputError says, or nothing; any other exception is a failure."""
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


def test_quotes_crlf_bom_blank_lines_and_other_columns(tmp_path: Path) -> None:
    content = '\ufeffid,path,labels\r\n1,"a, b.jpg",sea | sky\r\n\r\n2,é.jpg,\r\n'.encode()
    images = read_manifest(write(tmp_path / "m.csv", content), tmp_path)["all"]
    assert list(images.names) == ["a, b.jpg", "é.jpg"]
    assert images.labels.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows"),
        (b"path,labels\n", "no rows"),
        (b"file,labels\na.jpg,x\n", "no column `path` among 'file', 'labels'"),
        (b"path,labels\na.jpg\n", ":2: expected 2 fields as in the header, found 1"),
        (b"path,labels\na.jpg,x\nb.jpg,x,y\n", ":3: expected 2 fields as in the header, found 3"),
        (b"path,path\na.jpg,x\n", ":1: a column name stands twice"),
        (b"path,labels\n,x\n", ":2: empty path"),
        (b"path\na.jpg\nb.jpg\na.jpg\n", ":4: 'a.jpg' is already in row 2"),
        (b"path,split\na.jpg,test\n", ":2: split is 'test'; expected query, train, database"),
        (b"path,split\na.jpg,\n", ":2: split is ''"),
        (b"path,split\na.jpg,query\n", "no row has split `database`"),
        (b"path\n\xff.jpg\n", "not UTF-8"),
        (b'path\n"a.jpg\n', "not valid CSV"),
        (b"path\n/etc/passwd\n", ":2: '/etc/passwd' leads out of"),
        (b"path\na.jpg\n../b.jpg\n", ":3: '../b.jpg' leads out of"),
        (b"path\na.jpg\n./a.jpg\n", ":3: './a.jpg' is already in row 2"),
        (b"path\na\0.jpg\n", "is no name of a file"),
        (b"path,label,labels\na.jpg,x,y\n", ":1: a column name stands twice"),
        (b"path,Class\na.jpg,x\n", "no column `labels`, but 'Class'; name the column"),
        (b"path,tags\na.jpg,x\n", "no column `labels`, but 'tags'"),
        (b"path\n" + b"a" * (2**20 + 1) + b"\n", ":2: a line of over 1,048,576 characters"),
    ],
)
def test_malformed(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "m.csv", content)
    assert message in message_of(lambda: read_manifest(path, tmp_path))


@pytest.mark.parametrize("column", ["label", "labels", "Label", " LABELS "])
@pytest.mark.parametrize(
    "cell", ['"desert, sea"', "desert|sea", "desert;sea", " sea ; desert", '"sea,,desert"']
)
def test_labels_of_either_name_and_any_separator(tmp_path: Path, column: str, cell: str) -> None:
    content = f"Path,{column}\na.jpg,{cell}\nb.jpg,sea\n".encode()
    images = read_manifest(write(tmp_path / "m.csv", content), tmp_path)["all"]
    assert images.labels.tolist() == [[True, True], [False, True]]  # desert, sea


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_other_separators_and_utf_16_are_read(
    tmp_path: Path, separator: str, encoding: str
) -> None:
    lines = [("path", "labels"), ("é.jpg", "cat|dog"), ("b.jpg", "cat")]
    text = "".join(separator.join(cells) + "\r\n" for cells in lines)
    found = read_manifest(write(tmp_path / "m.csv", text.encode(encoding)), tmp_path)["all"]
    assert list(found.names) == ["é.jpg", "b.jpg"]
    assert found.labels.tolist() == [[True, True], [True, False]]


def test_utf_16_that_is_cut_is_one_line(tmp_path: Path) -> None:
    content = "path,labels\na.jpg,x\n".encode("utf-16")[:-1]
    said = message_of(lambda: read_manifest(write(tmp_path / "m.csv", content), tmp_path))
    assert "save it with UTF-8" in said
    assert "\n" not in said


def test_columns_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "m.csv", b"path,labels,width,Class\na.jpg,x,3,y\n")
    assert read_manifest(path, tmp_path)["all"].labels.shape == (1, 1)
    assert f"{path}: columns that are not read: 'width', 'Class'" in caplog.text


def test_paths_below_the_root_and_outside(tmp_path: Path) -> None:
    content = f"path\n{tmp_path}/a.jpg\nb//./c.jpg\n".encode()
    images = read_manifest(write(tmp_path / "m.csv", content), tmp_path)["all"]
    assert list(images.names) == ["a.jpg", "b/c.jpg"]
    path = write(tmp_path / "m.csv", b"path\n/elsewhere/a.jpg\n../b.jpg\n")
    images = read_manifest(path, tmp_path, allow_outside=True)["all"]
    assert [images.path(row) for row in (0, 1)] == [
        Path("/elsewhere/a.jpg"),
        tmp_path / "../b.jpg",
    ]


def test_too_many_rows_bytes_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "m.csv", b"path,labels\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(99))
    )
    monkeypatch.setenv("UDMSH_MAX_ROWS", "98")
    assert ":100: more than 98 rows" in message_of(lambda: read_manifest(path, tmp_path))
    monkeypatch.setenv("UDMSH_MAX_ROWS", "99")
    monkeypatch.setenv("UDMSH_MAX_BYTES", str(99 * 99))
    assert len(read_manifest(path, tmp_path)["all"]) == 99
    monkeypatch.setenv("UDMSH_MAX_BYTES", str(99 * 99 - 1))
    assert "99 images x 99 labels" in message_of(lambda: read_manifest(path, tmp_path))
    monkeypatch.setenv("UDMSH_MAX_BYTES", "100")
    assert "more than 100 bytes" in message_of(lambda: read_manifest(path, tmp_path))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("m.csv", "m.parquet"):
        os.mkfifo(tmp_path / name)
        message = message_of(lambda name=name: read_manifest(tmp_path / name, tmp_path))
        assert "cannot read this manifest (it is a pipe" in message


def test_absent(tmp_path: Path) -> None:
    assert "cannot read this manifest" in message_of(
        lambda: read_manifest(tmp_path / "m.csv", tmp_path)
    )


# how paths are spelled is test_names.py's matter
LETTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/")
NAME = st.text(LETTERS, min_size=1, max_size=8).filter(lambda name: name.strip() not in (".", ".."))


@given(
    st.lists(
        st.tuples(NAME, st.lists(st.sampled_from(["sea", "sky", "x y"]), unique=True)),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_a_csv_writer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "labels"])
        writer.writerows((name, "|".join(labels)) for name, labels in rows)
    rows = [(name, labels) for name, labels in rows if name.strip() or labels]  # others are blank
    names = [name.strip() for name, _ in rows]
    refusal = message_of(lambda: read_manifest(path, path.parent))
    if len(set(names)) < len(names) or "" in names or not names:
        assert "already in row" in refusal or "empty path" in refusal or "no rows" in refusal
        return
    images = read_manifest(path, path.parent)["all"]
    assert list(images.names) == names
    assert [int(count) for count in images.labels.sum(axis=1)] == [
        len(labels) for _, labels in rows
    ]


PIECES = st.sampled_from(
    [
        b"path",
        b"split",
        b"labels",
        b",",
        b",",
        b"\n",
        b"\n",
        b"\r\n",
        b'"',
        b"a",
        b"b",
        b"|",
        b"\xff",
        b"\0",
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=25).map(b"".join))
def test_any_bytes_give_a_table_or_one_line_of_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("bytes") / "m.csv", content)
    refusal = message_of(lambda: read_manifest(path, path.parent))
    assert "\n" not in refusal
    assert not refusal or refusal.startswith(str(path))


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="the extra udmsh-pl[app] is not installed")
def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "split": ["query", "database"],
            "width": [3, 4],
            "Path": ["q.jpg", "./a.jpg"],
            "label": [["sea, calm", "sky"], None],
        }
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    parts = read_manifest(tmp_path / "m.parquet", tmp_path)
    assert parts["query"].labels.tolist() == [[True, True]]
    assert parts["database"].labels.tolist() == [[False, False]]
    assert list(parts["database"].names) == ["a.jpg"]
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no more")
    assert "cannot be read safely (ArrowInvalid" in message_of(
        lambda: read_manifest(tmp_path / "m.parquet", tmp_path)
    )


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="the extra udmsh-pl[app] is not installed")
@pytest.mark.parametrize("kind", ["text", "list", "rows", "bytes", "repeated"])
def test_a_small_parquet_that_is_huge(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setenv("UDMSH_MAX_BYTES", str(1 << 26))
    if kind == "text":
        once = pyarrow.array(["x" * 1_000_000])
        many = pyarrow.array([0] * 3000, pyarrow.int32())
        table = pyarrow.table({"path": pyarrow.DictionaryArray.from_arrays(many, once)})
    elif kind == "list":
        many = pyarrow.repeat("x", 20_000_000)
        labels = pyarrow.ListArray.from_arrays([0, len(many)], many)
        table = pyarrow.table({"path": ["a.jpg"], "labels": labels})
    elif kind == "bytes":
        table = pyarrow.table({"path": [f"{'x' * 60_000}{row}" for row in range(1200)]})
    elif kind == "repeated":
        table = pyarrow.table({"path": ["x" * 60_000] * 1200})
    else:
        table = pyarrow.table({"path": pyarrow.array([None] * 2_000_001, pyarrow.string())})
    packed = {"compression": "zstd", "use_dictionary": kind != "bytes"}
    parquet.write_table(table, tmp_path / "m.parquet", **packed)
    assert (tmp_path / "m.parquet").stat().st_size < 20_000
    message = message_of(lambda: read_manifest(tmp_path / "m.parquet", tmp_path))
    assert "longer than 65,536" in message or "more than" in message


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path / "m.parquet", b"PAR1")
    assert "pip install 'udmsh-pl[app]'" in message_of(lambda: read_manifest(path, tmp_path))
