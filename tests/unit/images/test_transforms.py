"""Transforms against plain Pillow and by their contract."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from udmsh_pl.errors import InputError
from udmsh_pl.images.decode import square
from udmsh_pl.images.transforms import Transform, eval_transform, view_transform

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))


def normalised(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_eval_is_pillows_bicubic_of_the_whole_image(picture: Image.Image) -> None:
    found = eval_transform(16, MEAN, STD)(picture)
    assert found.dtype == torch.float32
    resized = picture.resize((16, 16), Image.Resampling.BICUBIC)
    torch.testing.assert_close(found, normalised(resized))
    assert type(found) is torch.Tensor


def test_bytes_are_the_pixels_that_a_search_sees(picture: Image.Image) -> None:
    found = eval_transform(16)(picture)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), square(picture, 16))


def test_views_repeat_with_the_seed_and_differ_otherwise(picture: Image.Image) -> None:
    transform = view_transform(16, MEAN, STD)
    torch.manual_seed(1)
    first, second = transform(picture), transform(picture)
    torch.manual_seed(1)
    assert torch.equal(transform(picture), first)
    assert first.shape == (3, 16, 16)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("make", [eval_transform, view_transform])
def test_wrong_size(make: Callable[..., Transform]) -> None:
    with pytest.raises(InputError, match=r"--data\.image_size"):
        make(0, MEAN, STD)


def test_wrong_scale() -> None:
    with pytest.raises(InputError, match="crop scale"):
        view_transform(8, MEAN, STD, scale=(0.0, 1.0))
