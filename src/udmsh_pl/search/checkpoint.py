"""Checkpoints of the methods of this package, seen from a search: the network in a file."""

import inspect
from pathlib import Path
from typing import Any

import torch

from udmsh_pl.backbones.networks import OFFLINE_BACKBONE, BackboneInfo, build_backbone, weights_id
from udmsh_pl.baselines.shallow import ShallowEncoder
from udmsh_pl.errors import InputError
from udmsh_pl.models import UDMSH
from udmsh_pl.models.base import HashingModule
from udmsh_pl.models.heads import DualBranchEncoder, FusedEncoder, LinearEncoder
from udmsh_pl.safe.untrusted import check_archive
from udmsh_pl.search.graph import HashHead, PixelEncoder
from udmsh_pl.search.spec import RERANK_DIMS, EncoderSpec


def read_checkpoint(path: Path) -> tuple[PixelEncoder, EncoderSpec]:
    """The network of a checkpoint that ``udmsh fit`` or a Lightning Trainer wrote; nothing in the
    file is run.

    The class is looked up among the methods of this package. A method without a fused feature has
    no re-rank feature yet.

    Raises ``InputError``: no such file, no checkpoint, or of a method that cannot leave Lightning.
    """
    module = _module(path, *_load(path))
    if module.fused:
        raise InputError(
            f"{path} reads fused features, which a search does not compute for it; "
            "give a checkpoint that was trained without --model.fused"
        )
    encoder: Any = module.encoder
    if isinstance(encoder, ShallowEncoder):
        encoder = encoder.as_linear()
    if type(encoder) not in (FusedEncoder, DualBranchEncoder, LinearEncoder) or (
        type(module).logits is not HashingModule.logits
        or type(module).forward not in (HashingModule.forward, UDMSH.forward)
        or getattr(module, "isometry", "") == "rotation"  # turns the codes after the encoder
    ):
        problem = f"{type(module).__name__} with these options cannot leave Lightning"
        mend = "give one of UDMSH (isometry pairwise or pointwise), UDMSHPlus, ITQ, PCAH or LSH"
        raise InputError(f"{path}: {problem}; {mend}")
    backbone = module.network or build_backbone(module.backbone, module.weights)
    dims = min(RERANK_DIMS, encoder.fusion.dims) if isinstance(encoder, FusedEncoder) else 0
    network = PixelEncoder(backbone, module.grid, HashHead(encoder.eval(), None, dims)).eval()
    tuned, note = module.finetune, path.name
    return network, spec_of(network, backbone.info, module.weights, tuned, note)


def spec_of(
    network: PixelEncoder, info: BackboneInfo, weights: str | None, tuned: bool, note: str
) -> EncoderSpec:
    """The specification of a network, whose backbone was built from ``weights``, and perhaps tuned,
    so that its weights go with the encoder; the note says how it came about.
    """
    encoder = network.head.encoder
    arguments = _arguments(encoder, info)
    return EncoderSpec(
        method=type(encoder).__name__, arguments=arguments, backbone=info.name,
        weights=weights_id(info.name, weights) if not tuned else "fine-tuned",
        own_backbone=info.name != OFFLINE_BACKBONE or weights is not None or tuned,
        image_size=info.image_size, mean=info.mean, std=info.std, grid=network.grid,
        bits=arguments["bits"], dims=network.head.dims, note=note,
    )  # fmt: skip


def _arguments(encoder: Any, info: BackboneInfo) -> dict[str, Any]:
    """Constructor arguments of an encoder, from the shapes of its weights and its backbone."""
    if isinstance(encoder, FusedEncoder):
        parts, last = encoder.fusion.parts, encoder.head[-1]
        found = {"global_dim": parts[0], "map_dim": sum(parts[1:]), "bits": last.out_features}
        found["dims"] = encoder.fusion.dims
        if len(encoder.head) > 1:  # a learned head, not a rotation
            found |= {"hidden": last.in_features, "dropout": encoder.head[3].p}
        return found
    if isinstance(encoder, LinearEncoder):
        return dict(zip(("global_dim", "bits"), encoder.directions.shape, strict=True))
    found = {"bits": encoder.hash_layer.out_features, "branches": encoder.branches}
    found |= {"global_dim": info.global_dim, "map_channels": info.map_channels}
    if encoder.branches != "spatial":
        linear, follows = encoder.global_branch[0], encoder.global_branch[1]
        found["hidden"] = linear.out_features
    if encoder.branches != "global":
        conv, follows = encoder.spatial_branch[0], encoder.spatial_branch[1]
        found |= {"spatial_hidden": conv.out_channels, "pooling": encoder.spatial_branch[-1].kind}
    found["batch_norm"] = not isinstance(follows, torch.nn.ReLU)
    return found


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options and weights of a checkpoint."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give --model a .ckpt or an export's folder")
    check_archive(path)  # torch would take a flipped bit for a weight
    try:
        found = torch.load(path, "cpu", weights_only=True)
        parts = found["hyper_parameters"], found["state_dict"]
    except Exception as error:  # torch has an error of its own for each kind of damage
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        problem = f"not a checkpoint that can be read safely ({what})"
        raise InputError(f"{path}: {problem}; give one that `udmsh fit` wrote") from error
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{path}: no checkpoint of a method; give one that `udmsh fit` wrote")
    return parts


def _module(path: Path, options: dict[str, Any], state: dict[str, Any]) -> HashingModule:
    known = {name: value for name, value in options.items() if not name.startswith("_")}
    problem, named = "", str(options.get("_class_path", "")).rpartition(".")[2]
    for method in sorted(_methods(), key=lambda method: method.__name__ != named):
        options = {name: known[name] for name in known if name not in method.former_options}
        if not set(options) <= set(inspect.signature(method).parameters):
            continue
        try:
            module = method(**options)
            module.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            what = " ".join(str(error).split())[:80]
            problem = problem or f" ({method.__name__}: {what})"
            continue
        return module.eval()
    problem = f"no method of this package has these options and weights{problem}"
    raise InputError(f"{path}: {problem}; was it written by another version?")


def _methods() -> list[type[HashingModule]]:
    """Concrete methods of the package, ours first."""
    import udmsh_pl.baselines  # noqa: F401  # so that its classes are there

    found: list[type[HashingModule]] = []
    below = list(HashingModule.__subclasses__())
    while below:
        method = below.pop(0)
        below += method.__subclasses__()
        if method.__module__.startswith("udmsh_pl.") and not inspect.isabstract(method):
            found.append(method)
    return sorted(found, key=lambda method: ".baselines." in method.__module__)
