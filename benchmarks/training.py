"""Training through Lightning against bare PyTorch loops: head on cached features, whole network.

    python benchmarks/training.py [--rounds 5] [--epochs 3]

On the embedded sample; the contenders take turns, and a figure is the median over rounds. The bare
loop trains the same encoder by the same loss on the same stored features, without Trainer, data
module or logging. Fine-tuning is timed over ``FINETUNE_BATCHES`` batches of 32 random views, beside
the backbone's forward and backward pass alone, the limit.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from torch.utils.data import DataLoader

from udmsh_pl.backbones.pixels import forward_of
from udmsh_pl.callbacks.evaluate import EvaluateRetrieval
from udmsh_pl.data import FashionSample
from udmsh_pl.images.image_list import ImageDataset
from udmsh_pl.images.transforms import eval_transform, view_transform
from udmsh_pl.models import UDMSH, build_backbone
from udmsh_pl.safe.files import write_text
from udmsh_pl.similarity.losses import isometric_loss, multilevel_pairwise_loss

IMAGES = 256  # through the backbone; its cost is linear in images
FINETUNE_BATCHES, FINETUNE_SIZE = 3, 32
# a constant rate, as the bare loop has it
HEAD: dict[str, Any] = {
    "bits": 64, "learning_rate": 1e-3, "warmup_steps": 0, "cosine_decay": False
}  # fmt: skip


class Clock(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def lightning_epochs(data: FashionSample, epochs: int) -> list[float]:
    return _fit(UDMSH(**HEAD), data, epochs)


def _fit(model: UDMSH, data: FashionSample, epochs: int, batches: int | float = 1.0) -> list[float]:
    clock = Clock()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        limit_train_batches=batches, callbacks=[clock],
    )  # fmt: skip
    seed_everything(0, verbose=False)
    trainer.fit(model, data)
    return clock.seconds[1:]  # the first epoch warms up


def lightning_finetuning(data: FashionSample) -> list[float]:
    return _fit(UDMSH(**HEAD, finetune=True), data, 2, FINETUNE_BATCHES)


def bare_finetuning(
    data: FashionSample, with_head: bool, layout: torch.memory_format = torch.channels_last
) -> float:
    """Seconds of the batches of :func:`lightning_finetuning` without Lightning and head.

    Views are made, and go through the backbone there and back, in the layout that the package
    trains in or in another.
    """
    seed_everything(0, verbose=False)
    model = UDMSH(**HEAD, finetune=True).train()
    network: Any = model.network
    network.to(memory_format=layout)
    model.load_teacher(model.fit_teacher(data.train_features))
    stored, info = data.features("train"), model.backbone_info
    pixels = ImageDataset(data.splits.train, view_transform(info.image_size, info.mean, info.std))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    start = 0.0
    loader = DataLoader(pixels, FINETUNE_SIZE, shuffle=True, num_workers=data.num_workers)
    for number, batch in enumerate(loader):
        if number == 1:  # the first batch warms up
            start = time.perf_counter()
        if number == FINETUNE_BATCHES + 1:
            break
        feature, feature_map = network(batch["image"].contiguous(memory_format=layout))
        if with_head:
            u = torch.tanh(model.encoder.logits(feature, feature_map))
            rows = batch["index"].numpy()
            taught = {name: torch.from_numpy(array[rows]) for name, array in stored.items()}
            similarity = model.teach(taught)["similarity"]
            loss = multilevel_pairwise_loss(u, similarity) + 0.1 * isometric_loss(u)
        else:
            loss = feature.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def bare_epochs(data: FashionSample, epochs: int) -> list[float]:
    seed_everything(0, verbose=False)
    model = UDMSH(**HEAD)
    model.load_teacher(model.fit_teacher(data.train_features))
    stored = data.features("train")
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        order = torch.randperm(len(stored["global_feature"]))
        for rows in order.split(128)[: len(order) // 128]:
            batch = {
                name: torch.from_numpy(array[rows.numpy()]).float()
                for name, array in stored.items()
            }
            u = model.encoder(batch["global_feature"], batch["feature_map"])
            similarity = model.teach(batch)["similarity"]
            loss = multilevel_pairwise_loss(u, similarity) + 0.1 * isometric_loss(u)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def backbone_epoch(data: FashionSample, backbone: torch.nn.Module, size: int) -> float:
    """Seconds of the backbone alone for all train images, from those for ``IMAGES`` of them."""
    images = data.splits.train
    transform = eval_transform(size, (0.5,) * 3, (0.5,) * 3)
    pixels = torch.stack([transform(images.load(row)) for row in range(IMAGES)])
    start = time.perf_counter()
    with torch.inference_mode():
        for part in pixels.split(64):
            backbone(part)
    return (time.perf_counter() - start) * len(images) / IMAGES


def map_of(data: FashionSample, seeds: int) -> str:
    """Mean and standard deviation of mAP@ALL on the test queries after ten epochs."""
    values = []
    for seed in range(seeds):
        seed_everything(seed, verbose=False)
        score = EvaluateRetrieval((None,))
        trainer = Trainer(
            max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
            callbacks=[score],
        )  # fmt: skip
        model = UDMSH(bits=64)
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        values.append(trainer.callback_metrics["test/map@all"].item())
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def without_store() -> FashionSample:
    """The sample with float32 features of plain PyTorch's backbone: training without the cache."""
    data = FashionSample(val_queries=0)
    forward = forward_of(data.backbone, None, "", "torch", 224, data.grid)
    transform = eval_transform(224)
    for split in ("train", "query"):
        images = data.splits.by_name()[split]
        parts = [
            forward(torch.stack([transform(images.load(row)) for row in rows.tolist()]))
            for rows in torch.arange(len(images)).split(64)
        ]
        names = ("global_feature", "feature_map")
        data._features[split] = {
            name: torch.cat(column).numpy()
            for name, column in zip(names, zip(*parts, strict=True), strict=True)
        }
    data._features["database"] = data._features["train"]
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an epoch of head training.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "training.md"
    )
    arguments = parser.parse_args()
    data = FashionSample(val_queries=0)
    data.prepare_data()
    backbone = build_backbone(data.backbone, None).eval()
    tuned = FashionSample(val_queries=0, finetune=True, batch_size=FINETUNE_SIZE)
    tuned.prepare_data()
    names = (
        "Lightning", "bare loop", "backbone", "tuned", "tuned bare", "tuned backbone", "planes"
    )  # fmt: skip
    ways: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        ways["Lightning"] += lightning_epochs(data, arguments.epochs + 1)
        ways["bare loop"] += bare_epochs(data, arguments.epochs + 1)
        ways["backbone"].append(backbone_epoch(data, backbone, 224))
        ways["tuned"] += lightning_finetuning(tuned)
        ways["tuned bare"].append(bare_finetuning(tuned, with_head=True))
        ways["tuned backbone"].append(bare_finetuning(tuned, with_head=False))
        ways["planes"].append(bare_finetuning(tuned, False, torch.contiguous_format))
    same = [map_of(data, arguments.seeds), map_of(without_store(), arguments.seeds)]
    middle = {name: statistics.median(values) for name, values in ways.items()}
    spread = {name: f"{min(values):.2f}-{max(values):.2f}" for name, values in ways.items()}
    seen = FINETUNE_BATCHES * FINETUNE_SIZE
    rates = {
        name: f"{seen / middle[name]:.1f} | {seen / slowest:.1f}-{seen / fastest:.1f}"
        for name, fastest, slowest in (
            (name, min(ways[name]), max(ways[name])) for name in names[3:]
        )
    }
    over_bare, over_backbone = (
        middle[name] / middle["Lightning"] for name in ("bare loop", "backbone")
    )
    lightning, bare, alone = (
        f"{middle[name]:.{digits}f} | {spread[name]}"
        for name, digits in (("Lightning", 2), ("bare loop", 2), ("backbone", 1))
    )
    setting = f"{len(data.splits.train):,} images, batch 128, {torch.get_num_threads()} threads"
    text = f"""# Head training on cached features: {setting}

| epoch | seconds (median) | spread | against Lightning |
|---|---:|---:|---:|
| UDMSH through Lightning, cached features | {lightning} | 1.00 |
| the same encoder and loss in a bare PyTorch loop | {bare} | {over_bare:.2f} |
| a forward pass of the backbone alone (plain PyTorch) | {alone} | {over_backbone:.1f} |

Lightning costs {100 * (1 / over_bare - 1):.0f} % over the bare loop. Running the backbone in each
epoch would make an epoch {1 + over_backbone:.0f} times longer ({IMAGES} images through the
backbone, scaled to all). mAP@ALL after ten epochs at 64 bits, mean and standard deviation over
{arguments.seeds} seeds: {same[0]} from the store (float16, OpenVINO where installed), {same[1]}
from the backbone's own float32 output.

| fine-tuning, batches of {FINETUNE_SIZE} | images/s (median) | spread |
|---|---:|---:|
| UDMSH through Lightning, `--model.finetune true` | {rates["tuned"]} |
| the same network and loss in a bare PyTorch loop | {rates["tuned bare"]} |
| the backbone alone, forward and backward | {rates["tuned backbone"]} |
| the same, laid out colour by colour | {rates["planes"]} |
"""
    print(text)
    write_text(arguments.out, text)


if __name__ == "__main__":
    main()
