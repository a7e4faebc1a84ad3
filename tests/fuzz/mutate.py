"""Damage to bytes, decided by a generator."""

import numpy as np

_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 255, 65535, 2**16, 2**24, 10**9)
_TEXTS = (b"\0", b"\n", b"..", b"/", b"\xff", b"%n", b"9" * 40, b"nan", b"1e999", b'"', b",", b"\r")


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """``content`` after one to four changes; ``other`` is spliced in now and then."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(0, len(data) + 1))
        length = int(min(len(data) - place, rng.integers(1, 33)))
        kind = int(rng.integers(0, 11))
        if kind <= 2 and place < len(data):
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 3 and place < len(data):
            data[place] = int(rng.integers(0, 256))
        elif kind == 4:
            number = int(rng.choice(_NUMBERS)) & 0xFFFFFFFF
            data[place : place + 4] = number.to_bytes(4, "little" if rng.random() < 0.5 else "big")
        elif kind == 5:
            del data[place : place + length]
        elif kind == 6:
            data[place:place] = data[place : place + length] * int(rng.integers(1, 40))
        elif kind == 7:
            data[place:place] = _TEXTS[int(rng.integers(0, len(_TEXTS)))]
        elif kind == 8:
            del data[place:]
        elif kind == 9:
            start = int(rng.integers(0, len(other) + 1))
            data[place : place + length] = other[start : start + length]
        else:
            data[place : place + length] = bytes(rng.integers(0, 256, length, dtype=np.uint8))
    return bytes(data)
