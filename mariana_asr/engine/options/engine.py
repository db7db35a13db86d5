"""Options of the engine: on what a network is trained, and how workers share the work."""

from typing import Literal

from pydantic import Field, PositiveInt

from mariana_asr.engine.options.exchanges import AllReduceOptions, ExchangeOptions
from mariana_asr.options import Options

RUN_OPTIONS = frozenset({"workers", "device", "threads", "compile", "max_restarts", "tensorboard"})
"""Options that may differ between a run and the one that resumes it."""


class EngineOptions(Options):
    """Workers, devices and exchange.

    A minibatch of ``train.minibatch_size`` frames is dealt out to the workers; whatever their
    number, they cover the same minibatches. With an exact exchange (``allreduce``, ``sharded``,
    ``hierarchical``) and float32 they end with the same model to rounding.
    """

    workers: Literal["auto"] | PositiveInt = "auto"
    """Processes that train together on this machine. ``auto`` takes one for each GPU, or without
    a GPU one for every four cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; ``auto`` takes GPUs if there are any."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of each worker on a CPU; by default the cores are shared out evenly."""
    exchange: ExchangeOptions = AllReduceOptions()
    """How workers combine what each learnt from its part of a minibatch."""
    minibatch_per_worker: int | None = Field(default=None, ge=1)
    """Let the minibatch grow with the workers: so many frames each, in place of
    ``train.minibatch_size`` for all."""
    rate_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How a step grows with a minibatch that ``minibatch_per_worker`` makes larger than
    ``train.minibatch_size``; see ``train.warmup_steps``, too."""
    accumulate: int = Field(default=1, ge=1)
    """Run each worker's part of a minibatch in so many pieces, one after the other, to save
    memory. Batch norm then takes its statistics from the pieces."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the forward and backward pass; weights, losses and updates are always float32."""
    compile: bool = False
    """Compile the network with torch.compile (on a CPU this needs a C++ compiler)."""
    sync_batch_norm: bool = True
    """Take batch norm's statistics over the minibatch of all workers, which makes any number of
    workers equal; else each worker has its own, which saves two small exchanges a layer."""
    storage: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the packed features; 16 bits halve disk space and bandwidth."""
    max_restarts: int = Field(default=3, ge=0)
    """How often the workers are restarted from the last checkpoint when one of them dies."""
    tensorboard: bool = False
    """Write TensorBoard scalars beside the log (needs the extra ``tensorboard``)."""
