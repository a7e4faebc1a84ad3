"""Transforms against plain Pillow and by their contract."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from udmsh_pl.errors import InputError
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
    one_level = 1.01 / 255 / min(STD)
    torch.testing.assert_close(
        found,
        normalised(picture.resize((16, 16), Image.Resampling.BICUBIC)),
        atol=one_level,
        rtol=0,
    )
    assert type(found) is torch.Tensor


@pytest.mark.parametrize("make", [eval_transform, view_transform])
def test_tensors_and_pil_images_give_the_same(
    picture: Image.Image, make: Callable[..., Transform]
) -> None:
    transform = make(16, MEAN, STD)
    torch.manual_seed(0)
    first = transform(picture)
    torch.manual_seed(0)
    assert torch.equal(transform(torch.from_numpy(np.array(picture)).permute(2, 0, 1)), first)


def test_crop_keeps_the_centre(picture: Image.Image) -> None:
    found = eval_transform(15, MEAN, STD, "bilinear", crop_pct=0.5)(
        picture
    )  # shorter side 30 -> 30, then 15 of it
    torch.testing.assert_close(found, normalised(picture.crop((18, 8, 33, 23))), atol=0.2, rtol=0)


def test_views_repeat_with_the_seed_and_differ_otherwise(picture: Image.Image) -> None:
    transform = view_transform(16, MEAN, STD)
    torch.manual_seed(1)
    first, second = transform(picture), transform(picture)
    torch.manual_seed(1)
    assert torch.equal(transform(picture), first)
    assert first.shape == (3, 16, 16)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "--data.image_size"),
        ({"image_size": 8, "interpolation": "cubic"}, "nearest, bilinear, bicubic, lanczos"),
        ({"image_size": 8, "crop_pct": 1.5}, "crop_pct is 1.5"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        eval_transform(mean=MEAN, std=STD, **arguments)


def test_wrong_scale() -> None:
    with pytest.raises(InputError, match="crop scale"):
        view_transform(8, MEAN, STD, scale=(0.0, 1.0))
