"""Binary codes as bytes and 64-bit words, labels as bit masks, and the checks of their shapes."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udmsh_pl.errors import InputError

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class WordArrays(NamedTuple):
    """Codes and labels of queries and database in 64-bit words: the input of exact evaluation.

    Codes, uint64 [Q, W] and [N, W], are from :func:`code_words`; label masks, uint64 [Q, V] and
    [N, V], from :func:`label_words`. An item is relevant when it shares a label with the query.
    """

    query: Words
    database: Words
    query_labels: Words
    database_labels: Words


def to_numpy(values: Any, name: str) -> npt.NDArray[Any]:
    """Give ``values`` (NumPy array, torch tensor on any device, nested list) as a NumPy array.

    Raises ``InputError``, which names the argument, for what is no rectangular array of numbers.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16; float32 holds each of its values
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        values = values.numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype}, not numbers: give a numeric array")
    return array


def pack_codes(u: Any) -> Bytes:
    """Pack relaxed or binary codes into bytes.

    Args:
        u: [N, K], NumPy array or torch tensor. Floats and signed integers: bit = (u >= 0), so
            sign(0) = +1 as the hashing papers define it. Booleans: bit = u.

    Returns:
        uint8 [N, ceil(K / 8)]. Bit k of a code is bit k % 8 (the least significant first) of byte k
        // 8; the bits past K are 0. Hamming distances, and so FAISS's answers, do not depend on
        this order.

    Raises ``InputError``: not two dimensions, K = 0, a NaN, or integers 0/1 (0 would become +1:
    pass them as bool).

    Example:
        >>> pack_codes([[0.9, -0.2, 0.0], [-1.0, 0.3, -0.4]]).tolist()  # bits 0 and 2, bit 1
        [[5], [2]]
    """
    values = to_numpy(u, "codes")
    shape = list(values.shape)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"codes have shape {shape}: give [items, bits] with at least one bit")
    if values.dtype.kind == "b":
        return np.packbits(values, axis=1, bitorder="little")
    if values.dtype.kind in "iu":
        if values.size and values.min() >= 0 and (values == 0).any():
            what = "codes are integers without a negative value, so u >= 0 is always true"
            raise InputError(f"{what}: convert 0/1 codes to bool, or give -1/+1")
    elif np.isnan(values).any():
        row = int(np.flatnonzero(np.isnan(values).any(axis=1))[0])
        mend = "the network diverged, or the file is damaged"
        raise InputError(f"codes hold NaN, first in row {row}: {mend}")
    return np.packbits(values >= 0, axis=1, bitorder="little")


def unpack_codes(codes: Any, bits: int) -> npt.NDArray[np.int8]:
    """Undo :func:`pack_codes`: uint8 [N, ceil(bits / 8)] to int8 [N, bits] of -1 and +1.

    Raises ``InputError`` as :func:`check_codes`.

    Example:
        >>> unpack_codes(pack_codes([[0.9, -0.2, 0.0], [-1.0, 0.3, -0.4]]), bits=3).tolist()
        [[1, -1, 1], [-1, 1, -1]]
    """
    packed = check_codes(codes, bits, "codes")
    ones = np.unpackbits(packed, axis=1, count=bits, bitorder="little").astype(np.int8)
    return (2 * ones - 1).astype(np.int8)


def check_codes(codes: Any, bits: int, name: str) -> Bytes:
    """Check packed codes (uint8 [N, ceil(bits / 8)], idle bits zero); gives a contiguous array."""
    if bits < 1:
        raise InputError(f"bits is {bits}: a code has at least one bit")
    array = to_numpy(codes, name)
    width, shape = (bits + 7) // 8, list(array.shape)
    if array.dtype != np.uint8:
        raise InputError(f"{name} holds {array.dtype}, not packed bytes: call pack_codes first")
    if array.ndim != 2 or array.shape[1] != width:
        need = f"{bits} bits need [items, {width}] bytes"
        raise InputError(f"{name} has shape {shape}: {need}; check bits")
    if bits % 8 and array.size and (array[:, -1] >> (bits % 8)).any():
        what = f"the codes are longer than bits={bits} says"
        raise InputError(f"{name} has bits set past bit {bits}: {what}")
    return np.ascontiguousarray(array)


def code_words(codes: Bytes) -> Words:
    """Pad bytes [N, B] with zeros to 64-bit words, uint64 [N, ceil(B / 8)]; distances stay."""
    rows, width = codes.shape
    padded = np.zeros((rows, 8 * ((width + 7) // 8)), dtype=np.uint8)
    padded[:, :width] = codes
    return padded.view(np.uint64)


def check_labels(labels: Any, items: int, name: str) -> Bools:
    """Check labels ([items, L], bool or numbers 0/1) and give them as bool [items, L]."""
    array = to_numpy(labels, name)
    if array.ndim != 2 or array.shape[1] == 0:
        mend = "give [items, labels]; one-hot encode class numbers"
        raise InputError(f"{name} has shape {list(array.shape)}: {mend}")
    if array.shape[0] != items:
        rows = f"{name} has {array.shape[0]} rows, its codes {items}"
        raise InputError(f"{rows}: both must list the same items")
    if not ((array == 0) | (array == 1)).all():
        raise InputError(f"{name} holds values other than 0 and 1: give one column a label")
    return np.asarray(array == 1)


def check_rows(values: Any, items: int, name: str) -> npt.NDArray[Any]:
    """Check that there is one whole number an item: an array [items]."""
    array = to_numpy(values, name)
    if array.shape != (items,) or array.dtype.kind not in "iu":
        shape = f"{name} has shape {list(array.shape)}, type {array.dtype}"
        raise InputError(f"{shape}: give {items} whole numbers")
    return array


def label_words(labels: Bools) -> Words:
    """Labels bool [N, L] as bit masks, uint64 [N, ceil(L / 64)]."""
    return code_words(np.packbits(labels, axis=1, bitorder="little"))


def popcounts(words: Words) -> npt.NDArray[np.int64]:
    """Set bits of each row of uint64 [N, W]: int64 [N]."""
    if hasattr(np, "bitwise_count"):
        ones: Bytes = np.bitwise_count(words)
    else:  # NumPy 1
        octets = np.ascontiguousarray(words).view(np.uint8)
        ones = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)[octets]
    return np.asarray(ones.sum(axis=1, dtype=np.int64))
