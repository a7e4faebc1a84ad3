import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval.external import SINGLE, external_codes, external_labels, read_arrays

CODES = np.where(np.random.default_rng(0).random((6, 16)) < 0.5, -1, 1).astype(np.int8)


class Runs:
    """An object whose unpickling makes a file: if that file is there, code has run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save(path):
    if path.suffix == ".npz":
        np.savez_compressed(path, codes=CODES)
    elif path.suffix == ".npy":
        np.save(path, CODES)
    elif path.suffix == ".pt":
        torch.save({"codes": torch.from_numpy(CODES)}, path)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"codes": CODES}, do_compression=True)
    else:
        np.savetxt(path, CODES, fmt="%d")


SUFFIXES = (".npz", ".npy", ".pt", ".mat", ".txt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_come_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save(path)
    (array,) = read_arrays(path).values()
    assert np.array_equal(array, CODES)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_pickled_objects_are_refused_and_not_run(tmp_path, suffix):
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "ran"
    evil = np.array([Runs(trace)], dtype=object)
    if suffix == ".npz":
        np.savez(path, codes=evil)
    elif suffix == ".npy":
        np.save(path, evil)
    else:
        torch.save({"codes": Runs(trace)}, path)
    with pytest.raises(InputError, match="cannot be read safely"):
        read_arrays(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bare_pickle_under_any_name_is_refused_and_not_run(tmp_path, suffix):
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Runs(trace)))
    with pytest.raises(InputError):
        read_arrays(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".txt"])
@given(data=st.data())
@settings(
    max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_files_are_input_errors_or_arrays(tmp_path, suffix, data):
    damaged_file_is_an_input_error_or_arrays(tmp_path, suffix, data)


@given(data=st.data())
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_matlab_files_are_input_errors_or_arrays(tmp_path, data):
    damaged_file_is_an_input_error_or_arrays(tmp_path, ".mat", data)  # a process each


def damaged_file_is_an_input_error_or_arrays(tmp_path, suffix, data):
    path = tmp_path / f"a{suffix}"
    save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        arrays = read_arrays(path)
    except InputError as error:
        message, arrays = str(error), {}
    else:
        message = ""
    assert "\n" not in message
    assert all(array.dtype.kind in "biuf" for array in arrays.values())


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 8)}
    )
    (tmp_path / "huge.npy").write_bytes(stream.getvalue() + b"1234")
    with pytest.raises(InputError, match=r"huge\.npy"):
        read_arrays(tmp_path / "huge.npy")


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("UDMSH_MAX_BYTES", str(2**20))
    np.savez_compressed(tmp_path / "bomb.npz", codes=np.zeros((1024, 1024), dtype=np.uint8))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_arrays(tmp_path / "bomb.npz")


@pytest.mark.parametrize("suffix", [".pt", ".mat"])
def test_other_formats_that_unpack_to_too_much(tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("UDMSH_MAX_BYTES", str(2**20))
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".mat":
        scipy.io.savemat(
            path, {"codes": np.zeros((2048, 1024), dtype=np.uint8)}, do_compression=True
        )
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/0", bytes(2**21))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_arrays(path)


def test_a_header_inside_an_archive_that_promises_more_than_it_holds(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (2**44, 8)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("codes.npy", stream.getvalue() + b"1234")
    with pytest.raises(InputError, match=r"a\.npz cannot be read safely"):
        read_arrays(tmp_path / "a.npz")


def test_a_tensor_that_repeats_one_number_is_refused(tmp_path):
    torch.save({"codes": torch.ones(1).expand(2**20, 2**20)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="codes is larger than what is stored"):
        read_arrays(tmp_path / "a.pt")


@pytest.mark.parametrize("whole", [(0, 1, 2, 3), (0, 1, 2, 3, 4)])  # rows, and pointers to them
@pytest.mark.parametrize("value", [100_000, -1, 2_000_000_000, 5])
def test_damaged_sparse_matrices_are_refused_and_harm_nobody(tmp_path, whole, value):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"codes": scipy.sparse.csc_matrix(np.eye(4))})
    numbers = np.array(whole, dtype="<i4")
    before, content = numbers.tobytes(), path.read_bytes()
    assert before in content
    numbers[1] = value
    path.write_bytes(content.replace(before, numbers.tobytes(), 1))
    with pytest.raises(InputError, match=r"a\.mat.*(damaged|cannot be read)"):
        read_arrays(path)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_no_flipped_bit_of_an_archive_changes_an_array_without_a_word(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    np.savez(path, codes=CODES) if suffix == ".npz" else save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            arrays = read_arrays(path)
        except InputError:
            continue
        assert np.array_equal(arrays["codes"], CODES), place


def test_bytes_behind_an_array_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", CODES)
    with (tmp_path / "a.npy").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(InputError, match="its header and its size disagree"):
        read_arrays(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(InputError, match="it is a pipe, not a regular file"):
        read_arrays(tmp_path / f"a{suffix}")


def test_text_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setenv("UDMSH_MAX_BYTES", "4_000")
    (tmp_path / "a.txt").write_text("0110011001100110\n" * 32)
    with pytest.raises(InputError, match=r"a.txt:32: so far more than 4,000 bytes"):
        read_arrays(tmp_path / "a.txt")


def test_a_sparse_matrix_is_read_unless_it_is_too_large_a_dense_one(tmp_path):
    small, huge = (
        scipy.sparse.csc_matrix(CODES.astype(float)),
        scipy.sparse.csc_matrix((2**17, 2**17)),
    )
    scipy.io.savemat(tmp_path / "a.mat", {"codes": small})
    assert np.array_equal(read_arrays(tmp_path / "a.mat")["codes"], CODES)
    scipy.io.savemat(tmp_path / "a.mat", {"codes": small, "labels": huge})
    with pytest.raises(InputError, match="unpacks to more than"):
        read_arrays(tmp_path / "a.mat")


def test_cells_and_structs_of_matlab_are_left_unread(tmp_path):
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = CODES
    scipy.io.savemat(
        tmp_path / "a.mat", {"codes": CODES, "deep": cell, "fields": {"a": 1}, "text": "x"}
    )
    assert list(read_arrays(tmp_path / "a.mat")) == ["codes"]


def test_cells_nested_without_end_do_not_crash_the_parser(tmp_path):
    def element(kind, content):
        return struct.pack("<II", kind, len(content)) + content

    def head(class_number, name):
        flags, shape = struct.pack("<II", class_number, 0), struct.pack("<ii", 1, 1)
        return element(6, flags) + element(5, shape) + element(1, name)

    numbers = element(14, head(6, b"numbers_") + element(9, struct.pack("<d", 1.0)))
    cell = struct.pack("<II", 14, 1000) + head(1, b"")
    start = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    (tmp_path / "a.mat").write_bytes(
        start + numbers + element(14, head(1, b"nested__") + 200_000 * cell)
    )
    assert list(read_arrays(tmp_path / "a.mat")) == ["numbers_"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 1\n0 1\n", "a.txt:2 has 2 values, the first row 3"),
        ("# bits\n0 1\n\n0 one\n", "a.txt:4 is not a row of numbers"),
        ("0 1\nnan 1\n", "a.txt:2 holds a value that is not finite"),
        ("", "holds no array"),
        ("\x00\xff", "a.txt"),
    ],
)
def test_text_errors_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_arrays(path)


def test_text_without_blanks(tmp_path):
    (tmp_path / "a.txt").write_text("0110\n1001\n")
    assert np.array_equal(read_arrays(tmp_path / "a.txt")[SINGLE], [[0, 1, 1, 0], [1, 0, 0, 1]])


def test_matlab_73_is_named(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512))
    with pytest.raises(InputError, match="save it with -v7"):
        read_arrays(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("array", "bits", "message"),
    [
        (np.arange(8), None, "give .items, bits."),
        (np.full((2, 4), 3), None, "neither 0/1 nor -1/"),
        (np.full((2, 4), np.nan), None, "not finite"),
        (np.where(np.eye(8) > 0, np.inf, -1.0), None, "not finite"),
        (np.linspace(0, 1, 64).reshape(8, 8), None, "outputs of a sigmoid"),
        (np.linspace(0, 9, 64).reshape(8, 8), None, "without a negative one"),
        (np.full((2, 4), 9, dtype=np.uint8), 40, "not codes of 40 bits"),
        (np.ones((2, 4)), 5, "not codes of 5 bits"),
    ],
)
def test_arrays_that_are_no_codes(array, bits, message):
    with pytest.raises(InputError, match=message):
        external_codes(array, bits, None, "file")


def test_uint8_zeros_and_ones_are_bits_unless_the_length_says_packed():
    array = np.array([[0, 1], [1, 1]], dtype=np.uint8)
    assert external_codes(array, None, None, "file")[1] == 2
    packed, bits = external_codes(array, 16, None, "file")
    assert bits == 16
    assert np.array_equal(packed, array)


@pytest.mark.parametrize(
    ("query", "database", "message"),
    [
        (np.array([1, 2]), np.array([0.0, np.nan, 1, 2]), "database labels .* not finite"),
        (np.array([1, 2]), np.array([0, 1.5, 1, 2]), "database labels hold fractions"),
        (np.ones((2, 1, 1)), np.ones((4, 1)), "query labels have shape"),
        (np.array(3), np.ones((4, 1)), "query labels have shape"),
        (np.array([1, 2]), np.ones((4, 3)), "query labels have shape"),
    ],
)
def test_labels_of_other_shapes_and_values(query, database, message):
    with pytest.raises(InputError, match=message):
        external_labels(query, database, 2, 4)


def test_a_class_for_each_item_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setenv("UDMSH_MAX_BYTES", "1000")
    with pytest.raises(InputError, match="40 classes of 42 items take more than 1,000 bytes"):
        external_labels(np.arange(2), np.arange(40), 2, 40)


def test_labels_that_fit_nothing():
    with pytest.raises(InputError, match="query labels have shape"):
        external_labels(np.full((2, 3), 7), np.ones((4, 3)), 2, 4)
