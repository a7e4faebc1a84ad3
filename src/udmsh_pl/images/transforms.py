"""From an image to a backbone's float tensor: whole for codes, random views for training."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torchvision.transforms import v2

from udmsh_pl.errors import InputError

Transform = Callable[[Image.Image | torch.Tensor], torch.Tensor]


def eval_transform(
    image_size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str = "bicubic",
    crop_pct: float | None = None,
) -> Transform:
    """Deterministic transform for codes: RGB image -> float32 [3, size, size], or uint8.

    Float32 values are normalised.

    The image is a PIL image or a uint8 tensor [3, H, W], which is faster; both give the same
    values.

    By default the **whole** image is resized to a square, whatever its aspect ratio, and nothing is
    cropped: what lies at the rim of a picture carries labels too (*ours*; the paper does not say).

    Args:
        image_size: side of the square in pixels.
        mean: per-channel mean, in units of pixel values scaled to 0..1; None keeps the pixels as
            uint8, for a forward pass that normalises them: a quarter of the bytes from worker to
            backbone.
        std: per-channel standard deviation, in the same units.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        crop_pct: None for the whole image; else the share of the shorter side that a centred square
            crop keeps, as in timm and torchvision (0.875 for 256 -> 224).

    Raises:
        InputError: a size below 1, an unknown interpolation, or a ``crop_pct`` outside (0, 1].
    """
    mode = _interpolation(interpolation)
    _check_size(image_size)
    if crop_pct is None:
        steps: list[Callable[..., object]] = [v2.Resize((image_size, image_size), mode)]
    elif 0 < crop_pct <= 1:
        steps = [v2.Resize(round(image_size / crop_pct), mode), v2.CenterCrop(image_size)]
    else:
        raise InputError(
            f"crop_pct is {crop_pct}; give a share above 0 and at most 1, or null for the whole "
            "image"
        )
    transform: Transform = v2.Compose([v2.ToImage(), *steps, *_to_floats(mean, std)])
    return transform


def view_transform(
    image_size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str = "bicubic",
    scale: tuple[float, float] = (0.3, 1.0),
) -> Transform:
    """Random view for training: RGB image (PIL or uint8 [3, H, W]) -> as :func:`eval_transform`.

    Random resized crop, horizontal flip, colour jitter and grey, all drawn from torch's generator,
    so that a seed repeats them. Milder than SimCLR's (a crop of at least 0.3 of the area, no blur),
    since a small crop of a multi-label picture often shows none of its labels (*ours*).

    Args:
        image_size: side of the square in pixels.
        mean: per-channel mean, in units of pixel values scaled to 0..1; None keeps the pixels as
            uint8, for a forward pass that normalises them: a quarter of the bytes from worker to
            backbone.
        std: per-channel standard deviation, in the same units.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        scale: least and largest share of the image's area that a crop keeps.

    Raises:
        InputError: a size below 1, an unknown interpolation, or a ``scale`` that is not 0 < least
            <= largest <= 1.
    """
    mode = _interpolation(interpolation)
    _check_size(image_size)
    if not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(
            f"crop scale is {tuple(scale)}; give two shares of the area with 0 < least <= largest "
            "<= 1"
        )
    transform: Transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(image_size, scale=scale, interpolation=mode),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *_to_floats(mean, std),
        ]
    )
    return transform


def _to_floats(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> list[Callable[..., object]]:
    if mean is None or std is None:
        return [v2.ToPureTensor()]
    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
        v2.ToPureTensor(),
    ]


def _interpolation(name: str) -> v2.InterpolationMode:
    known = ("nearest", "bilinear", "bicubic", "lanczos")
    if name not in known:
        raise InputError(f"interpolation {name!r} is not known; give one of {', '.join(known)}")
    return v2.InterpolationMode(name)


def _check_size(image_size: int) -> None:
    if image_size < 1:
        raise InputError(
            f"image size is {image_size}; give --data.image_size a number of pixels, at least 1"
        )
