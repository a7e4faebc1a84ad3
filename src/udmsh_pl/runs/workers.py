"""Processes of a plan: workers that share its cells, or ranks that train a cell together.

Both run the same command line again; a variable of the environment says what they are. The first
rank decides for all ranks; a lone process decides itself.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from udmsh_pl.features.batches import CORES

WORKER = "UDMSH_WORKER"  # of one launch of workers: cells that killed two of them are given up
RANKS = "UDMSH_RANKS"
PATIENCE = timedelta(days=2)  # others wait while the first rank fits a teacher or extracts
# what torchrun and SLURM set: a worker trains alone, whatever started it
LAUNCHERS: tuple[str, ...] = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
    "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "NODE_RANK",
    "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_NAME",
)  # fmt: skip


def start(arguments: Sequence[str], jobs: int, logs: Path) -> list["subprocess.Popen[bytes]"]:
    """Start ``jobs`` processes of ``udmsh ARGUMENTS``, each with a GPU or a share of the cores; the
    folder ``logs`` gets ``worker-N.log``, what each prints.
    """
    gpus, threads = visible_gpus(), str(max(1, (os.cpu_count() or 1) // jobs))
    shared = {WORKER: uuid.uuid4().hex, CORES: threads}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # the user's own number wins
        shared[name] = os.environ.get(name, threads)
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    for number in range(jobs):
        own = dict(shared)
        if gpus:
            own["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        with (logs / f"worker-{number}.log").open("ab") as log:
            processes.append(_start(arguments, own, log))
    return processes


def run_ranks(arguments: Sequence[str], count: int) -> int:
    """Run processes that train together; gives the exit status. One that fails ends the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {RANKS: "1", "WORLD_SIZE": str(count), "NODE_RANK": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        _start(arguments, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, None)
        for rank in range(count)
    ]
    status = 0
    try:
        while ranks and not status:
            time.sleep(0.1)
            for ended in [rank for rank in ranks if rank.poll() is not None]:
                ranks.remove(ended)
                status = status or ended.returncode
    finally:
        stop(ranks)
    return status


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End what still runs."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def launch_id() -> str | None:
    """Id that the processes of a launch (workers, torchrun, srun) share; None for a lone one."""
    if WORKER in os.environ:
        return os.environ[WORKER]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun-{os.environ['TORCHELASTIC_RUN_ID']}-{os.getppid()}"
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        job, again = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")
        return f"slurm-{job}-{again}"
    return None


def forget_launcher() -> int:
    """Hide torchrun and SLURM from Lightning: this process trains alone, on a GPU of its own; gives
    its number among those of the launcher.
    """
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
    if gpus := visible_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local % len(gpus)]
    for name in LAUNCHERS:
        os.environ.pop(name, None)
    return rank


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


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
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def join_ranks() -> None:
    """Join the process group of :func:`run_ranks` with one's own rank."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, rank=rank, world_size=world, timeout=PATIENCE)


def _start(arguments: Sequence[str], own: dict[str, str], log: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "udmsh_pl", *arguments]
    out = {} if log is None else {"stdout": log, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env={**os.environ, **own}, stdin=subprocess.DEVNULL, **out)  # type: ignore[call-overload, no-any-return]
