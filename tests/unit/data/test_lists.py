"""The list parser against real lists, hostile lists, and a large one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udmsh_pl.data import ListFiles
from udmsh_pl.data.mirflickr import PROTOCOLS as MIRFLICKR
from udmsh_pl.errors import InputError
from udmsh_pl.images.image_list import ImageList
from udmsh_pl.images.list_file import read_list, read_splits, write_list

SHARED = Path(__file__).parents[3] / "../shared/data/lists"
# LC_ALL=C sort LIST | sha256sum gives the same for each list; this one is over the three of them.
FINGERPRINT_MIRFLICKR = "17b55562ba8bc714e48f50d4398027ae990effaba775057bc19c1f9198432297"
needs_lists = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the lists of ../shared/data/lists are not here"
)


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


def test_usual_list(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "l.txt", b"b/1.jpg 0 1\na/2.jpg 1 1\n"), tmp_path)
    assert list(found.names) == ["b/1.jpg", "a/2.jpg"]
    assert found.labels.tolist() == [[False, True], [True, True]]
    assert found.path(1) == tmp_path / "a/2.jpg"


def test_odd_but_right_lists(tmp_path: Path) -> None:
    content = "\ufeffmy photo (1).jpg 0 1\r\n\r\n  b.jpg\t1\t 0 \r\nübung é.jpg  1 1\r\n\n".encode()
    found = read_list(write(tmp_path / "l.txt", content))
    assert list(found.names) == ["my photo (1).jpg", "b.jpg", "übung é.jpg"]
    assert found.labels.tolist() == [[False, True], [True, False], [True, True]]


def test_bare_paths(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "l.txt", b"a 0 1.jpg\nb 1\n"), labels=0)
    assert list(found.names) == ["a 0 1.jpg", "b 1"]
    assert found.labels.shape == (2, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a.jpg 0 1\nb.jpg 1\nc.jpg 1 1\n",
            r":2: expected a path and 2 labels \(0 or 1\), found 'b.jpg' and 1 labels",
        ),
        (
            b"a.jpg 0 1\nb.jpg 1 0 1\nc.jpg 1 1\n",
            r":2: expected a path and 2 labels .* 3 labels|found '1' and 2 labels",
        ),
        (
            b"a.jpg 0 1\nb.jpg 2 1\nc.jpg 1 1\n",
            r":2: expected a path and 2 labels \(0 or 1\), found '2' and 1 labels",
        ),
        (b"a.jpg 0 1\nb.jpg 1 x\nc.jpg 1 1\n", r":2: expected a path and 2 labels"),
        (b"a.jpg 0 1\nb.jpg 1 -1\nc.jpg 1 1\n", r":2: expected a path and 2 labels"),
        (b"a.jpg 0 1\nb.jpg 1 1.0\nc.jpg 1 1\n", r":2: expected a path and 2 labels"),
        (b"a.jpg 0 1\nb.jpg,1,1\nc.jpg 1 1\n", r":2: expected a path and 2 labels"),
        (b"a.jpg 0 1\n1 1\n", r":2: expected a path and 2 labels"),
        (b"a.jpg -1 1\n", r":1: expected a path and 1 labels"),
        (b"a.jpg 0 1\n\nb\xff.jpg 1 1\n", r":3: byte 0xff is not UTF-8"),
        (b"a.jpg 0 1\n\nb.jpg 1 1\r\na.jpg 1 1\n", r":4: 'a.jpg' is already on line 1"),
        (b"a.jpg 0 1\rb.jpg 1 1\r", r":1: a control character"),
        (b"a\0.jpg 0 1\n", r":1: a control character"),
        (b"\xff\xfea\0.", "UTF-16 that is cut or damaged"),
        (b"a.jpg\nb.jpg\n", r":1: .*found no label"),
        (b"", "the list is empty"),
        (b"\n \r\n\n", "the list is empty"),
    ],
)
def test_broken_lists_are_refused_with_file_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write(tmp_path / "l.txt", content)
    with pytest.raises(InputError, match=message) as caught:
        read_list(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_utf_16_is_read(tmp_path: Path) -> None:
    lines = "a.jpg 0 1\nä.jpg 1 1\n"
    wide, plain = (
        read_list(write(tmp_path / code, lines.encode(code))) for code in ("utf-16", "utf-8")
    )
    assert wide.names == plain.names == ["a.jpg", "ä.jpg"]
    assert wide.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("name", ["/etc/passwd", "../q.jpg", "a/../../q.jpg", "//q.jpg"])
def test_paths_that_lead_outside_are_refused_unless_asked(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "l.txt", f"a.jpg 0 1\n{name} 0 1\n".encode())
    with pytest.raises(InputError, match=r":2: .* leads out of .*; give paths below --data.root"):
        read_list(path, tmp_path)
    with pytest.raises(InputError, match=r"--data.allow_outside true"):
        read_list(path, tmp_path)
    assert len(read_list(path, tmp_path, allow_outside=True)) == 2
    with pytest.raises(InputError, match="leads out of"):
        ListFiles(root=tmp_path, database=path).load_splits()
    with pytest.raises(InputError, match="images are missing"):  # so it was read
        ListFiles(root=tmp_path, database=path, allow_outside=True).load_splits()


def test_a_file_has_one_name(tmp_path: Path) -> None:
    content = f"./a//b.jpg 0 1\n{tmp_path}/./c.jpg 1 1\nd/../e.jpg 1 1\n...jpg 1 1\n"
    path = write(tmp_path / "l.txt", content.encode())
    found = read_list(path, tmp_path)
    assert list(found.names) == ["a/b.jpg", "c.jpg", "e.jpg", "...jpg"]
    assert found.path(1) == tmp_path / "c.jpg"
    write(path, b"a/b.jpg 0 1\n./a/b.jpg 0 1\n")
    with pytest.raises(InputError, match=r":2: './a/b.jpg' is already on line 1"):
        read_list(path, tmp_path)
    for nothing in (b". 0 1\n", b"a/.. 0 1\n", b"/ 0 1\n"):
        with pytest.raises(InputError, match="is no name of a file"):
            read_list(write(path, nothing), tmp_path)


def test_a_query_does_not_leak_under_another_spelling(tmp_path: Path, place_images) -> None:
    pair = make_pair(tmp_path, place_images)
    write(pair.query, b"./a.jpg 0 1\n")
    with pytest.raises(InputError, match="1 of 1 query images are also in the train split"):
        pair.load_splits()


@pytest.mark.parametrize(
    "line",
    [
        b"a.jpg" + b" 1" * 1_000_000 + b" x",
        b"a.jpg" + b"\t0" * 1_000_000,
        b" " * 999_999 + b"x 1" + b" " * 999_999 + b"y",
        b"1" * 2_000_000,
        b"1 " * 1_000_000 + b"x.jpg 0 1",
    ],
)
def test_the_time_of_a_line_grows_as_its_length(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "l.txt", line + b"\n")
    start = time.process_time()
    refusal = message_of(lambda: read_list(path))
    assert time.process_time() - start < 3
    assert len(refusal) < 1000


def test_a_list_of_too_many_lines_and_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "l.txt", b"a.jpg 0 1\nb.jpg 0 1\n")
    monkeypatch.setenv("UDMSH_MAX_ROWS", "2")
    assert len(read_list(path)) == 2
    monkeypatch.setenv("UDMSH_MAX_ROWS", "1")
    with pytest.raises(InputError, match="more than 1 rows; set UDMSH_MAX_ROWS"):
        read_list(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"cannot read this list .*a pipe"):
        read_list(tmp_path / "pipe")


def test_wrong_number_of_labels_for_the_protocol(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r":1: expected a path and 3 labels"):
        read_list(write(tmp_path / "l.txt", b"a.jpg 0 1\n"), labels=3)


def test_absent_list_and_folder_for_a_list(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="cannot read this list"):
            read_list(path)


# how paths are spelled is test_names.py's matter
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/")
TEXT = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))


@given(
    st.lists(
        st.tuples(TEXT, st.lists(st.booleans(), min_size=3, max_size=3)), min_size=1, max_size=6
    )
)
def test_whatever_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    path = tmp_path_factory.mktemp("lists") / "l.txt"
    images = ImageList(
        [name for name, _ in rows], np.array([labels for _, labels in rows], dtype=bool)
    )
    refusal = message_of(lambda: write_list(images, path))
    if refusal:
        assert "cannot stand in a list file" in refusal
        assert not path.exists()
        return
    if len({name for name, _ in rows}) < len(rows):
        with pytest.raises(InputError, match="is already on line"):
            read_list(path)
        return
    back = read_list(path, allow_outside=True)
    assert list(back.names) == list(images.names)
    assert np.array_equal(back.labels, images.labels)
    assert back.fingerprint() == images.fingerprint()


PIECES = st.sampled_from(
    [
        b"a",
        b"b.jpg",
        b"0",
        b"1",
        b" ",
        b" ",
        b"\n",
        b"\n",
        b"\r\n",
        b"\t",
        b"2",
        b"\xff",
        b"\xc3\xa9",
    ]
)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=40).map(b"".join))
def test_any_bytes_give_all_rows_or_one_line_of_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("bytes") / "l.txt", content)
    refusal = message_of(lambda: read_list(path))
    if refusal:
        assert refusal.startswith(str(path))
        assert "\n" not in refusal
        return
    found = read_list(path)
    lines = [line.split() for line in content.decode().split("\n") if line.strip()]
    assert len(found) == len(lines)
    for name, labels, words in zip(found.names, found.labels, lines, strict=True):
        assert words[-len(labels) :] == ["01"[int(label)] for label in labels]
        assert name.split() == words[: -len(labels)]


@needs_lists
@pytest.mark.parametrize(
    ("name", "rows", "labels", "positives", "fingerprint"),
    [
        ("mirflickr/test", 1_000, 38, 4613, "fff806d4f6833d89"),
        ("mirflickr/train", 4_000, 38, 18449, "54e6181ad06802bd"),
        ("mirflickr/database", 20_000, 38, 94844, "ac6e19065b96e4a0"),
        ("nuswide_21/test", 2_100, 21, 6962, "57d4dcb9da1e08a2"),
        ("nuswide_21/train", 10_500, 21, 30053, "1768392df774ef2f"),
        ("nuswide_81_m/test", 5_000, 81, 12156, "113df92550bc7569"),
        ("nuswide_81_m/train", 10_000, 81, 24357, "a8623ac85ab01678"),
        ("coco/test", 5_000, 80, 14755, "67b1bf136b60ac41"),
        ("coco/train", 10_000, 80, 29412, "d02627e6873a74be"),
    ],
)
def test_real_lists(
    tmp_path: Path, name: str, rows: int, labels: int, positives: int, fingerprint: str
) -> None:
    images = read_list(SHARED / f"{name}.txt")
    assert images.labels.shape == (rows, labels)
    assert int(images.labels.sum()) == positives
    assert images.fingerprint()[:16] == fingerprint
    write_list(images, tmp_path / "back.txt")
    assert (tmp_path / "back.txt").read_bytes() == (SHARED / f"{name}.txt").read_bytes()


@needs_lists
def test_real_mirflickr_split_over_tiny_images(tmp_path: Path, place_images) -> None:
    splits = read_splits(SHARED / "mirflickr", tmp_path, MIRFLICKR["38-annotations"])
    for images in splits.by_name().values():
        place_images(tmp_path, images.names)
    module = ListFiles(
        root=tmp_path,
        query=SHARED / "mirflickr/test.txt",
        train=SHARED / "mirflickr/train.txt",
        database=SHARED / "mirflickr/database.txt",
    )
    assert module.splits.fingerprint() == splits.fingerprint() == FINGERPRINT_MIRFLICKR
    assert module.splits.query.load(999).size == (8, 8)
    (tmp_path / splits.query.names[3]).unlink()
    with pytest.raises(
        InputError, match=r"1 of 1000 query images are missing, first .*; fetch them"
    ):
        module.load_splits()


def make_pair(root: Path, place_images, **more: object) -> ListFiles:
    place_images(root, ["q.jpg", "a.jpg", "b.jpg"])
    write(root / "query.txt", b"q.jpg 0 1\n")
    write(root / "database.txt", b"a.jpg 0 1\nb.jpg 1 0\n")
    return ListFiles(root=root, query=root / "query.txt", database=root / "database.txt", **more)


def test_module_takes_the_database_for_training_unless_told(tmp_path: Path, place_images) -> None:
    splits = make_pair(tmp_path, place_images, dataset="mine", protocol="p", map_at=5).splits
    assert splits.train is splits.database
    assert (splits.protocol.dataset, splits.protocol.name, splits.protocol.map_at) == (
        "mine",
        "p",
        5,
    )


def test_numbers_of_left_out_images_can_be_declared(tmp_path: Path, place_images) -> None:
    plain = make_pair(tmp_path, place_images)
    declared = ListFiles(
        root=tmp_path, query=plain.query, database=plain.database, missing={"database": 2}
    )
    assert declared.splits.fingerprint() != plain.splits.fingerprint()
    assert declared.splits.missing == {"database": 2}


def test_195834_lines_are_fast_and_small(tmp_path: Path) -> None:
    rows, columns = 195_834, 21
    labels = np.random.default_rng(0).random((rows, columns)) < 0.1
    names = [f"images/{row:06d}_{row * 7919 % 10**10}.jpg" for row in range(rows)]
    images = ImageList(names, labels)
    write_list(images, tmp_path / "l.txt")
    code = (
        "import resource, sys, time; from pathlib import Path; "
        "from udmsh_pl.images.list_file import read_list\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()\n"
        "images, end = read_list(Path(sys.argv[1])), time.perf_counter()\n"
        "print(images.fingerprint(), end - start)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "l.txt")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert answer[0] == images.fingerprint()
    assert float(answer[1]) < 10  # seconds
    assert float(answer[2]) < 500  # MB
