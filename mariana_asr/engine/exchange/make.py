"""The exchange that a recipe asks for."""

from torch import nn

from mariana_asr.engine.exchange.all_reduce import WIRE_TYPES, AllReduce
from mariana_asr.engine.exchange.exchange import Alone, Exchange
from mariana_asr.engine.exchange.sharded import Sharded
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options.exchanges import (
    AllReduceOptions,
    ExchangeOptions,
    HalfOptions,
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
    """
    if workers.size == 1:
        return Alone(objective, workers)
    if isinstance(options, AllReduceOptions | HalfOptions):
        return AllReduce(objective, workers, WIRE_TYPES[options.type], exact_squares=exact_squares)
    if isinstance(options, ShardedOptions):
        return Sharded(objective, workers, exact_squares=exact_squares)
    raise NotImplementedError(options.type)
