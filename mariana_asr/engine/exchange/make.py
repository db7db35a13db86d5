"""The exchange that a recipe asks for."""

from torch import nn

from mariana_asr.engine.exchange.all_reduce import WIRE_TYPES, AllReduce
from mariana_asr.engine.exchange.blocks import BlockMomentum, LocalSgd
from mariana_asr.engine.exchange.exchange import Alone, Exchange
from mariana_asr.engine.exchange.hierarchical import Hierarchical
from mariana_asr.engine.exchange.powersgd import PowerSgd
from mariana_asr.engine.exchange.sharded import Sharded
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options.exchanges import (
    AllReduceOptions,
    ExchangeOptions,
    HalfOptions,
    HierarchicalOptions,
    LocalSgdOptions,
    PowerSgdOptions,
    ShardedOptions,
)


def make_exchange(
    objective: nn.Module, workers: Workers, options: ExchangeOptions, *, exact_squares: bool
) -> Exchange:
    """Make a worker's side of an exchange; all workers have to, at the same time.

    Args:
        objective: Maps its inputs to a tuple whose first member is a loss, summed over frames.
            Its parameters and buffers become those of the first worker.
        workers: The workers, whose process group exists. With one nothing is exchanged, whatever
            the options say.
        options: Which exchange.
        exact_squares: Also sum each worker's own squared gradients, for the exact rule of
            adaptive optimisers. Workers that train apart have but their own anyway.

    Raises:
        StageError: The workers cannot be dealt out to hosts as the options say.
    """
    if workers.size == 1:
        return Alone(objective, workers)
    if isinstance(options, AllReduceOptions | HalfOptions):
        return AllReduce(objective, workers, WIRE_TYPES[options.type], exact_squares=exact_squares)
    if isinstance(options, ShardedOptions):
        return Sharded(objective, workers, exact_squares=exact_squares)
    if isinstance(options, HierarchicalOptions):
        return Hierarchical(
            objective,
            workers,
            workers_per_host=options.workers_per_host,
            exact_squares=exact_squares,
        )
    if isinstance(options, PowerSgdOptions):
        return PowerSgd(
            objective,
            workers,
            rank=options.rank,
            start_step=options.start_step,
            exact_squares=exact_squares,
        )
    if isinstance(options, LocalSgdOptions):
        return LocalSgd(objective, workers, options.block_steps)
    return BlockMomentum(
        objective,
        workers,
        block_steps=options.block_steps,
        block_momentum=options.block_momentum,
        block_learning_rate=options.block_learning_rate,
        nesterov=options.nesterov,
    )
