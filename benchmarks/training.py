"""Head training on cached features: against a bare PyTorch loop, and against running the trunk in every epoch.

    python benchmarks/training.py [--rounds 5] [--epochs 3]

On the embedded sample; the contenders take turns, and a figure is the median over rounds. The bare loop trains the same
encoder by the same loss on the same stored features, without Trainer, data module or logging.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything

from udmsh_pl.data import FashionSample
from udmsh_pl.data.transforms import eval_transform
from udmsh_pl.files import write_text
from udmsh_pl.losses import isometric_loss, multilevel_pairwise_loss
from udmsh_pl.models import UDMSH, build_trunk

IMAGES = 256  # through the trunk; its cost is linear in images


class Clock(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def lightning_epochs(data: FashionSample, epochs: int) -> list[float]:
    clock = Clock()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[clock],
    )  # fmt: skip
    seed_everything(0, verbose=False)
    trainer.fit(UDMSH(bits=64), data)
    return clock.seconds[1:]


def bare_epochs(data: FashionSample, epochs: int) -> list[float]:
    seed_everything(0, verbose=False)
    model = UDMSH(bits=64)
    model.load_teacher(model.fit_teacher(data))
    stored = data.features("train")
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        order = torch.randperm(len(stored["global_feature"]))
        for rows in order.split(128)[: len(order) // 128]:
            batch = {name: torch.from_numpy(array[rows.numpy()]).float() for name, array in stored.items()}
            u = model.encoder(batch["global_feature"], batch["feature_map"])
            similarity = model.structure.similarity(model.structure.distances(model.teacher_features(batch)))
            loss = multilevel_pairwise_loss(u, similarity) + 0.1 * isometric_loss(u)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def trunk_epoch(data: FashionSample, trunk: torch.nn.Module, size: int) -> float:
    """Seconds that the trunk alone needs for all train images, from those for ``IMAGES`` of them."""
    images = data.splits.train
    transform = eval_transform(size, (0.5,) * 3, (0.5,) * 3)
    pixels = torch.stack([transform(images.load_tensor(row)) for row in range(IMAGES)])
    start = time.perf_counter()
    with torch.inference_mode():
        for part in pixels.split(64):
            trunk(part)
    return (time.perf_counter() - start) * len(images) / IMAGES


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an epoch of head training.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.md")
    arguments = parser.parse_args()
    data = FashionSample(val_queries=0)
    data.prepare_data()
    trunk = build_trunk(data.backbone, None).eval()
    ways: dict[str, list[float]] = {"Lightning": [], "bare loop": [], "trunk": []}
    for _ in range(arguments.rounds):
        ways["Lightning"] += lightning_epochs(data, arguments.epochs + 1)
        ways["bare loop"] += bare_epochs(data, arguments.epochs + 1)
        ways["trunk"].append(trunk_epoch(data, trunk, 224))
    middle = {name: statistics.median(values) for name, values in ways.items()}
    spread = {name: f"{min(values):.2f}-{max(values):.2f}" for name, values in ways.items()}
    over_bare, over_trunk = (middle[name] / middle["Lightning"] for name in ("bare loop", "trunk"))
    text = f"""# Head training on cached features: {len(data.splits.train):,} images, batch 128, {torch.get_num_threads()} threads

| epoch | seconds (median) | spread | against Lightning |
|---|---:|---:|---:|
| UDMSH through Lightning, cached features | {middle["Lightning"]:.2f} | {spread["Lightning"]} | 1.00 |
| the same encoder and loss in a bare PyTorch loop | {middle["bare loop"]:.2f} | {spread["bare loop"]} | {over_bare:.2f} |
| a forward pass of the trunk alone (plain PyTorch) | {middle["trunk"]:.1f} | {spread["trunk"]} | {over_trunk:.1f} |

Lightning costs {100 * (1 / over_bare - 1):.0f} % over the bare loop. Running the trunk in each epoch would make an epoch
{1 + over_trunk:.0f} times longer ({IMAGES} images through the trunk, scaled to all).
"""
    print(text)
    write_text(arguments.out, text)


if __name__ == "__main__":
    main()
