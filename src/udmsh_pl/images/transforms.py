"""From an image to a backbone's tensor: whole for codes, random views for training."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from PIL import Image
from torchvision.transforms import v2

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import square

Transform = Callable[[Image.Image], torch.Tensor]
Channels = Sequence[float] | None


def eval_transform(image_size: int, mean: Channels = None, std: Channels = None) -> Transform:
    """Deterministic transform for codes: RGB image -> float32 [3, size, size], or uint8.

    The whole image is resized by :func:`udmsh_pl.images.decode.square`, as a search does it.

    ``mean`` and ``std`` are of each channel, in units of pixel values scaled to 0..1; without them
    pixels stay uint8, for a forward pass that normalises them: a quarter of the bytes.
    """
    return _transform(image_size, [partial(square, side=image_size), torch.from_numpy], mean, std)


def view_transform(
    image_size: int, mean: Channels = None, std: Channels = None,
    scale: tuple[float, float] = (0.3, 1.0),
) -> Transform:  # fmt: skip
    """Random view for training: RGB image -> as :func:`eval_transform`.

    Random resized crop, horizontal flip, colour jitter and grey, all drawn from torch's generator,
    so that a seed repeats them. Milder than SimCLR's (a crop of at least 0.3 of the area, no blur),
    since a small crop of a multi-label picture often shows none of its labels (*ours*).

    ``scale`` is the least and the largest share of the image's area that a crop keeps, in 0..1.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"crop scale is {tuple(scale)}; give 0 < least <= largest <= 1")
    steps = [
        v2.ToImage(),
        v2.RandomResizedCrop(image_size, scale, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
    ]
    return _transform(image_size, steps, mean, std)


def _transform(
    size: int, steps: list[Callable[..., object]], mean: Channels, std: Channels
) -> Transform:
    if size < 1:
        raise InputError(f"image size is {size}; give --data.image_size at least 1 pixel")
    if mean is not None and std is not None:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    transform: Transform = v2.Compose([*steps, v2.ToPureTensor()])
    return transform
