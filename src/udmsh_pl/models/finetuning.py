"""A backbone that is trained too: its layout, and gradients and images of several processes."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from udmsh_pl.backbones.networks import Backbone, TimmBackbone, build_backbone
from udmsh_pl.errors import InputError


def channels_last(name: str, weights: str | None) -> Backbone:
    """:func:`udmsh_pl.backbones.build_backbone`, laid out as convolutions like it best (for images
    laid out alike): forward and backward take four sevenths of the time on a CPU.
    """
    layout: dict[str, Any] = {"memory_format": torch.channels_last}
    return build_backbone(name, weights).to(**layout)


def freeze_unused(network: Backbone, outputs: Sequence[int]) -> None:
    """Take the gradient from parameters that reach none of the outputs that are used.

    DDP waits for the gradient of every parameter that has one: a head behind the feature map, when
    the map alone is used, would end the training at its second step. One forward pass of a blank
    image finds them, since what is used is written in autograd's graph.

    Args:
        network: a backbone
        outputs: places in :class:`udmsh_pl.backbones.BackboneFeatures` that are used
    """
    first = next(network.parameters())
    size, training = network.info.image_size, network.training
    network.eval()
    with torch.enable_grad():
        features = network(torch.zeros(1, 3, size, size, dtype=first.dtype, device=first.device))
    network.train(training)
    used = set(_leaves([features[place] for place in outputs]))
    for parameter in network.parameters():
        if parameter.requires_grad and id(parameter) not in used:
            parameter.requires_grad_(False)


def refuse_sync_batchnorm(trainer: Trainer, network: Backbone | None) -> None:
    """Refuse ``--trainer.sync_batchnorm true`` by an InputError where Lightning would swap a timm
    backbone's normalisation for one without the activation that timm keeps in it.
    """
    asked = getattr(trainer.strategy, "_layer_sync", None) is not None
    if asked and isinstance(network, TimmBackbone):
        raise InputError(
            "--trainer.sync_batchnorm true replaces the normalisation of a timm backbone, and with "
            "it the activations that timm keeps there; leave it out: heads are normalised over "
            "the global batch without it"
        )


def _leaves(outputs: Sequence[Tensor]) -> Iterator[int]:
    """Identities of the parameters that outputs were computed from."""
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        parameter = getattr(node, "variable", None)
        if isinstance(parameter, nn.Parameter):
            yield id(parameter)
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting.extend(following)


def of_all_processes(module: LightningModule, values: Tensor) -> Tensor:
    """``[B, ...]`` of this process -> of all that train together, with gradients.

    The backward pass adds the gradients of all processes and DDP then averages over them, which
    leaves the gradient of one process with the whole batch. Rows come in that process's order,
    since they were dealt in turn.
    """
    if module._trainer is None or module.trainer.world_size == 1:
        return values
    everyone = cast(Tensor, module.all_gather(values, sync_grads=values.requires_grad))
    return everyone.transpose(0, 1).flatten(0, 1)
