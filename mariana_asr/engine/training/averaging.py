"""Averages of a network's weights over epochs."""

from collections.abc import Sequence
from contextlib import closing
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.nnet.network import FrameNetwork

STATISTICS_FRAMES = 200_000
"""Training frames that batch norm's statistics are taken from: more change them no further."""

MINIBATCH_SIZE = 2048
RANDOMIZER_SIZE = 32768


def average_weights(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average parameters and buffers, each for itself (Izmailov et al. 2018).

    Whole numbers, such as counts of steps, are those of the last.

    Args:
        weights: State dicts of one network at several times.

    Raises:
        ValueError: There are none, or they are of different networks.
    """
    if not weights or any(state.keys() != weights[0].keys() for state in weights):
        raise ValueError("weights to average must be of one network, and at least one")
    averages = {}
    for name, last in weights[-1].items():
        if not last.is_floating_point():
            averages[name] = last.clone()
            continue
        # In double precision, so that what is equal in all stays as it is.
        mean = torch.stack([state[name].double() for state in weights]).mean(dim=0)
        averages[name] = mean.to(last.dtype)
    return averages


def recompute_batch_norm(
    network: FrameNetwork,
    store: FrameStore,
    *,
    seed: int = 0,
    frames: int = STATISTICS_FRAMES,
    device: torch.device | str = "cpu",
) -> None:
    """Take batch norm's means and variances anew, from training frames, for these weights.

    Averages of the weights of several times have other activations than the network had at any of
    them, which averaged statistics do not describe (Izmailov et al. 2018). Everything but batch
    norm is in evaluation mode: the statistics are of activations as they are without dropout, as in
    use.

    Args:
        network: The network; one without batch norm is left as it is.
        store: Training frames.
        seed: Of their order.
        frames: About how many to take.
        device: Where to run; the network is left there.
    """
    module = cast(nn.Module, network)
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    module.to(device).eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    randomizer = Randomizer(
        store,
        left_context=network.left_context,
        right_context=network.right_context,
        chunk_frames=network.chunk_frames,
        minibatch_size=MINIBATCH_SIZE,
        randomizer_size=RANDOMIZER_SIZE,
        seed=seed,
        workers=Workers.alone(torch.device(device)),
    )
    seen, windows = 0, 0
    with torch.no_grad(), closing(randomizer.epoch(1)) as minibatches:
        for minibatch in minibatches:
            windows += len(minibatch.inputs)
            for norm in norms:
                # With this share for the newest, all windows so far count alike.
                norm.momentum = len(minibatch.inputs) / windows
            module(minibatch.inputs)
            seen += minibatch.frames
            if seen >= frames:
                break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
