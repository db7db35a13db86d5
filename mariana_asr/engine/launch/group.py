"""Joining the process group of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from mariana_asr.engine.launch.device import local_device, threads_per_worker
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions

PATIENCE = timedelta(minutes=30)
"""How long a worker waits for the others in one exchange before it gives up."""


@contextmanager
def joined(
    options: EngineOptions,
    store: dist.Store,
    *,
    rank: int,
    size: int,
    local_rank: int,
    local_size: int,
) -> Iterator[Workers]:
    """Join the workers that meet at ``store``, with gloo between CPUs and NCCL between GPUs.

    Raises:
        StageError: There is no such device.
    """
    device = local_device(options, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads_per_worker(options, local_size))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield Workers(rank, size, device, local_size)
    finally:
        dist.destroy_process_group()
