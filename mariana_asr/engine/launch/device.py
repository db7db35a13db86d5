"""Which devices a training runs on, and how many workers share them."""

import torch

from mariana_asr.engine.options import EngineOptions
from mariana_asr.errors import StageError
from mariana_asr.parallel import available_cores

CORES_PER_WORKER = 4
"""On CPUs ``auto`` gives each worker so many cores: matrix products of a minibatch's size gain
little from more, and a worker of its own gains more than a thread does."""


def uses_gpus(options: EngineOptions) -> bool:
    """Whether training runs on GPUs.

    Raises:
        StageError: A GPU is asked for and there is none.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise StageError(
            "engine.device is cuda, but torch finds no GPU", remedy="Use engine.device=auto or cpu"
        )
    return options.device != "cpu" and torch.cuda.is_available()


def local_device(options: EngineOptions, local_rank: int) -> torch.device:
    """The device of the worker with this number on this host.

    Raises:
        StageError: There are more workers than GPUs, or no GPU though one is asked for.
    """
    if not uses_gpus(options):
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise StageError(
            f"worker {local_rank} has no GPU: this host has {torch.cuda.device_count()}",
            remedy="Lower engine.workers, or use engine.device=cpu",
        )
    return torch.device("cuda", local_rank)


def num_local_workers(options: EngineOptions) -> int:
    """How many workers ``engine.workers`` means on this machine."""
    if options.workers != "auto":
        return options.workers
    if uses_gpus(options):
        return torch.cuda.device_count()
    return max(1, available_cores() // CORES_PER_WORKER)


def threads_per_worker(options: EngineOptions, local_workers: int) -> int:
    """How many threads each of some workers on this host computes with."""
    return options.threads or max(1, available_cores() // local_workers)
