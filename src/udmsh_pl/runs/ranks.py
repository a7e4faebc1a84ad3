"""Processes that train together: what one decides, all know. Without any, all is decided here."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=2)  # others wait while the first rank fits a teacher or extracts


def is_first() -> bool:
    """Whether this process decides and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def agreed(value: bool) -> bool:
    """The first rank's ``value``, in every process."""
    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def join() -> None:
    """Make this process a rank of :func:`udmsh_pl.runs.parallel.run_ranks`, if it is one."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world < 2 or dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank = int(os.environ["RANK"])
    dist.init_process_group(backend, rank=rank, world_size=world, timeout=PATIENCE)
