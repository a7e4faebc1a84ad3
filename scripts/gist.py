"""GIST: how strongly an image is striped, by scale, orientation and place.

Oliva & Torralba, IJCV 2001. *Stated*: a bank of Gabor filters at several scales and orientations,
and the mean magnitude of each filter's answer over a grid of windows. *Read* in the authors' public
MATLAB code: the constants of the filters, the grey values stretched to 0 .. 255, the local contrast
normalisation before filtering, symmetric borders. The code here is our own.
"""

from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

Float32s = NDArray[np.float32]

ORIENTATIONS = (8, 8, 8, 8)  # of each scale, the finest first: 32 filters x 16 windows = 512
HIGHEST = 0.3  # cycles a pixel of the finest scale; each next one is 1.85 times coarser
SCALE_STEP = 1.85
RADIAL, ANGULAR = 3.5, 2 * np.pi / 64  # how narrow; ANGULAR counts in steps of orientation
LOW_PASS = 4 / np.sqrt(np.log(2))  # cycles an image that contrast normalisation removes
NORMALISING_BORDER = 5
NOTHING = 1e-5  # of a filter's peak of 1: what is less is left out
FAINT = 0.2  # local contrast below which an image counts as flat


def gist(
    images: NDArray[np.uint8],
    orientations: Sequence[int] = ORIENTATIONS,
    windows: int = 4,
    size: int | None = None,
    border: int = 32,
    batch: int = 128,
) -> Float32s:
    """GIST descriptors of square images.

    Args:
        images: uint8 [N, S, S, 3] or [N, S, S]
        orientations: number of orientations of each scale, the finest scale first
        windows: the image is averaged over windows x windows places
        size: side to resize to beforehand, bilinearly; None for S
        border: pixels that the image is mirrored outwards by before filtering
        batch: images that are filtered at a time

    Returns:
        float32 [N, sum(orientations) * windows ** 2]: filter by filter (scale, then orientation;
        the first orientation has vertical stripes), and in a filter window by window, row by row.
    """
    grey = images.astype(np.float32).mean(-1) if images.ndim == 4 else images.astype(np.float32)
    if size is not None and size != grey.shape[1]:
        grey = np.stack([_resized(image, size) for image in grey])
    side = grey.shape[1]
    filters = gabor_filters(orientations, side + 2 * border)
    edges = np.linspace(0, side, windows + 1).astype(int)
    starts, lengths = edges[:-1], np.diff(edges)
    area = np.outer(lengths, lengths).astype(np.float32)
    # Only the inside of the mirrored image is wanted, and each filter passes a part of the
    # frequencies: two small matrix products cost less than a whole inverse transform.
    inverse = scipy.fft.ifft(np.eye(side + 2 * border), axis=0).astype(np.complex64)
    inverse = inverse[border : border + side]  # [S, frequencies]
    passed = [_passed(transfer) for transfer in filters]
    described = np.empty((len(grey), len(filters), windows, windows), np.float32)
    for first in range(0, len(grey), batch):
        rows = slice(first, first + batch)
        spectra = scipy.fft.fft2(_mirrored(normalised_contrast(grey[rows]), border))
        for number, (down, across) in enumerate(passed):
            answers = spectra[:, down[:, None], across] * filters[number][down[:, None], across]
            magnitude = np.abs(inverse[:, down] @ answers @ inverse[:, across].T)
            sums = np.add.reduceat(np.add.reduceat(magnitude, starts, axis=1), starts, axis=2)
            described[rows, number] = sums / area
    return described.reshape(len(grey), -1)


def gabor_filters(orientations: Sequence[int], side: int) -> Float32s:
    """Transfer functions float32 ``[sum(orientations), side, side]``, in the order of
    :func:`scipy.fft.fft2`.

    Each is a bump around one frequency and one direction, on one half of the plane alone, so that
    the magnitude of what it answers is an envelope and does not swing with the phase.
    """
    frequencies = scipy.fft.fftfreq(side)
    across, down = np.meshgrid(frequencies, frequencies)
    radius, angle = np.hypot(across, down), np.arctan2(down, across)
    bank = []
    for scale, count in enumerate(orientations):
        centre = HIGHEST / SCALE_STEP**scale
        for number in range(count):
            turn = np.angle(np.exp(1j * (angle + np.pi * number / count)))  # in (-pi, pi]
            exponent = RADIAL * (radius / centre - 1) ** 2 + ANGULAR * (count * turn) ** 2
            bank.append(np.exp(-exponent))
    return np.asarray(bank, dtype=np.float32)


def normalised_contrast(grey: Float32s) -> Float32s:
    """Images float32 [N, S, S] stretched to 0 .. 255, without their slow changes, and divided by
    their local contrast.

    A constant added to an image changes nothing, and neither does a positive factor.
    """
    grey = grey - grey.min(axis=(1, 2), keepdims=True)
    grey = 255 * grey / np.maximum(grey.max(axis=(1, 2), keepdims=True), 1e-6)
    padded = _mirrored(np.log1p(grey), NORMALISING_BORDER)
    side = padded.shape[1]
    squares = (scipy.fft.fftfreq(side) * side).astype(np.float32) ** 2  # cycles an image
    low = np.exp(-(squares[:, None] + squares) / np.float32(LOW_PASS**2))
    detail = padded - scipy.fft.ifft2(scipy.fft.fft2(padded) * low).real
    contrast = np.sqrt(np.abs(scipy.fft.ifft2(scipy.fft.fft2(detail**2) * low)))
    inner = slice(NORMALISING_BORDER, side - NORMALISING_BORDER)
    return np.asarray((detail / (FAINT + contrast))[:, inner, inner], dtype=np.float32)


def _passed(transfer: Float32s) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of a transfer function that hold anything above :data:`NOTHING`."""
    held = transfer > NOTHING
    return np.flatnonzero(held.any(axis=1)), np.flatnonzero(held.any(axis=0))


def _mirrored(images: Float32s, border: int) -> Float32s:
    return np.pad(images, ((0, 0), (border, border), (border, border)), mode="symmetric")


def _resized(image: Float32s, size: int) -> Float32s:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
