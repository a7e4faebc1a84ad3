import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from udmsh_pl.errors import InputError
from udmsh_pl.retrieval import pack_codes, unpack_codes
from udmsh_pl.retrieval.codes import check_codes, check_labels, code_words, label_words, popcounts


@given(hnp.arrays(bool, st.tuples(st.integers(0, 5), st.integers(1, 140))))
def test_unpack_undoes_pack(bits):
    packed = pack_codes(bits)
    assert packed.shape == (len(bits), (bits.shape[1] + 7) // 8)
    signs = unpack_codes(packed, bits.shape[1])
    assert signs.dtype == np.int8
    assert ((signs == 1) == bits).all()
    assert ((signs == -1) == ~bits).all()
    assert (pack_codes(signs) == packed).all()
    assert (popcounts(code_words(packed)) == bits.sum(axis=1)).all()


def test_the_sign_of_zero_is_plus():
    assert unpack_codes(pack_codes([[0.0, -0.0, -1e-30, 1e-30]]), 4).tolist() == [[1, 1, -1, 1]]


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_with_gradients_and_short_floats_are_taken(kind):
    u = torch.tensor([[-0.5, 0.25, -3.0]], dtype=kind, requires_grad=True)
    assert pack_codes(u).tolist() == [[0b010]]


def test_the_first_bit_is_the_least_significant():
    assert pack_codes(np.eye(9, dtype=bool)[[0, 8]]).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.5, float("nan")]], "NaN, first in row 0"),
        (np.array([[0, 1], [1, 0]]), "convert 0/1"),
        (np.array([[0, 1]], dtype=np.uint8), "convert 0/1"),
        (np.zeros(3), "shape"),
        (np.zeros((3, 0)), "at least one bit"),
        ([["a"]], "not numbers"),
        ([[1, 2], [3]], "rectangular"),
    ],
)
def test_what_is_no_code_is_named(values, message):
    with pytest.raises(InputError, match=message):
        pack_codes(values)


def test_bits_beyond_the_length_are_an_error_and_not_a_distance():
    with pytest.raises(InputError, match="past bit 12"):
        check_codes(np.array([[1, 0b1_0000]], dtype=np.uint8), 12, "query_codes")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 2]), "one-hot"),
        (np.array([[1, 2], [0, 1]]), "other than 0 and 1"),
        (np.zeros((3, 4), bool), "3 rows"),
        (np.zeros((2, 0), bool), "shape"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(InputError, match=message):
        check_labels(labels, 2, "query_labels")


def test_labels_become_masks_of_any_width():
    labels = np.random.default_rng(0).random((7, 200)) < 0.3
    words = label_words(labels)
    assert words.shape == (7, 4)
    assert (popcounts(words) == labels.sum(axis=1)).all()
