"""Train batches are a function of seed, epoch and row, whatever the processes and restarts."""

import numpy as np
import pytest
import torch

from udmsh_pl.data.batches import (
    FeatureRows,
    ImagesWithFeatures,
    Shuffle,
    TrainLoader,
    seed_of,
    whole_batch,
)
from udmsh_pl.images.image_list import ImageDataset, ImageList

ROWS = 61


def rows() -> FeatureRows:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(size=(ROWS, 5, 3)).astype("<f2") for name in ("views", "view_maps")
    }
    arrays["global_feature"] = generator.normal(size=(ROWS, 3)).astype("<f2")
    return FeatureRows(np.zeros((ROWS, 2), dtype=bool), arrays)


def loader(
    batch_size: int, world: int = 1, rank: int = 0, epoch: int = 0, workers: int = 0
) -> TrainLoader:
    dataset = rows()
    steps = ROWS // (batch_size * world)
    sampler = Shuffle(dataset, world, rank, steps * batch_size)
    made = TrainLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=True,
        collate_fn=whole_batch,
        num_workers=workers,
    )
    sampler.set_epoch(epoch)
    return made


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("epoch", [0, 4])
def test_processes_together_hold_the_batches_of_one(world: int, epoch: int) -> None:
    whole = list(loader(4 * world, epoch=epoch))
    parts = [list(loader(4, world, rank, epoch)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole)} == {ROWS // (4 * world)}
    for batch, *shares in zip(whole, *parts, strict=True):
        for name in batch:  # dealt in turn, so that taking turns gives them back in order
            assert torch.equal(
                torch.stack([share[name] for share in shares], dim=1).flatten(0, 1), batch[name]
            )


def test_epochs_and_seeds_differ_in_order_and_views(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for seed in ("0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        seen += [next(iter(loader(ROWS, epoch=epoch))) for epoch in (0, 1, 2)]
    assert len({tuple(batch["index"].tolist()) for batch in seen}) == 6
    assert len({batch["views"][batch["index"].argsort()].numpy().tobytes() for batch in seen}) == 6
    for batch in seen:
        assert sorted(batch["index"].tolist()) == list(range(ROWS))
        assert not torch.equal(batch["views"][:, 0], batch["views"][:, 1])


@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_inside_an_epoch(done: int, workers: int) -> None:
    first = loader(16, epoch=3, workers=workers)
    batches = iter(first)
    for _ in range(done):
        next(batches)
    resumed = loader(16, workers=workers)
    resumed.load_state_dict(first.state_dict())
    assert len(resumed) == 3
    started = iter(resumed)  # Lightning asks for the iterator before it announces the epoch
    resumed.sampler.set_epoch(3)
    expected = [batch["index"].tolist() for batch in loader(16, epoch=3)]
    assert [batch["index"].tolist() for batch in started] == expected[done:]
    resumed.sampler.set_epoch(4)  # and the next epoch is a whole one
    assert [batch["index"].tolist() for batch in resumed] == [
        batch["index"].tolist() for batch in loader(16, epoch=4)
    ]


def test_random_views_of_pixels_depend_on_epoch_and_row() -> None:
    pixels = np.zeros((ROWS, 4, 4, 3), dtype=np.uint8)
    images = ImageList(
        [f"{row}.png" for row in range(ROWS)], np.zeros((ROWS, 2), dtype=bool), pixels=pixels
    )
    both = ImagesWithFeatures(ImageDataset(images, lambda image: torch.rand(2)), rows())
    state = torch.random.get_rng_state()
    one, other = both[5]["image"], both[6]["image"]
    assert torch.equal(both[5]["image"], one)
    assert not torch.equal(one, other)
    both.set_epoch(1)
    assert not torch.equal(both[5]["image"], one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seeds_do_not_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for seed in range(4):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        found |= {seed_of(epoch, row) for epoch in range(10) for row in range(100)}
    assert len(found) == 4 * 10 * 100
    assert max(found) < 2**63


@pytest.mark.parametrize(("count", "kept"), [(0, 12), (1, 6), (2, 4), (3, 3)])
def test_a_batch_holds_images_with_some_of_their_nearest(count: int, kept: int) -> None:
    nearest = np.random.default_rng(0).integers(ROWS, size=(ROWS, 3))

    def dealt(near: bool, skip: int = 0) -> list[list[int]]:
        given = (nearest, count) if near else None
        sampler = Shuffle(rows(), 1, 0, 60, given, 12)
        sampler.set_epoch(2)
        sampler.skip = 12 * skip
        found = list(sampler)
        return [found[at : at + 12] for at in range(0, len(found), 12)]

    plain, shown = dealt(near=False), dealt(near=True)
    assert len(plain) == len(shown) == 5
    for before, batch in zip(plain, shown, strict=True):
        assert batch[:kept] == before[:kept]
        assert len(batch) == 12
        for place, row in enumerate(batch[kept:]):
            assert row in nearest[batch[place % kept]]
    assert dealt(near=True) == shown
    assert dealt(near=True, skip=2) == shown[2:]  # a run that goes on inside an epoch


def test_pictures_are_shown_by_epoch_and_row() -> None:
    generator = np.random.default_rng(0)
    pictures = generator.normal(size=(ROWS, 4, 3)).astype("<f2")
    dataset = FeatureRows(np.zeros((ROWS, 0), dtype=bool), {"pictures": pictures})
    chosen = [5, 9, 30, 2, 7]
    batch = dataset.__getitems__(chosen)
    assert torch.equal(batch["clean"], torch.from_numpy(pictures[chosen, 0]).float())
    own = torch.from_numpy(pictures[chosen]).float()
    shown = (batch["shown"][:, None] == own).all(2)
    assert (shown.sum(1) == 1).all()
    first, second = ((one[:, None] == own[:3]).all(2) for one in batch["compared"])
    assert (first.sum(1) == 1).all()
    assert (second.sum(1) == 1).all()
    assert not (first & second).any()
    again = dataset.__getitems__(chosen[::-1])
    assert torch.equal(again["shown"].flip(0), batch["shown"])
    dataset.set_epoch(1)
    assert not torch.equal(dataset.__getitems__(list(range(ROWS)))["shown"], batch["shown"])
