"""Averages of a network's weights over epochs."""

from collections.abc import Sequence
from contextlib import closing
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, LossOptions, TrainOptions
from mariana_asr.engine.training.frame_task import FrameTask
from mariana_asr.engine.training.stepping import step_seed
from mariana_asr.nnet.dropout import set_frame_position
from mariana_asr.nnet.network import FrameNetwork

STATISTICS_FRAMES = 200_000
"""Training frames that batch norm's statistics are taken from."""


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
    options: TrainOptions,
    *,
    frames: int = STATISTICS_FRAMES,
    device: torch.device | str = "cpu",
) -> None:
    """Take batch norm's means and variances anew, from training frames, for these weights.

    Averages of the weights of several times have other activations than the network had at any of
    them (Izmailov et al. 2018). Frames are shown as in training, with dropout and masks on the
    input: weights have learnt to work with statistics of activations under dropout, and those of
    activations without it made every network worse that this was tried with.

    Args:
        network: The network; one without batch norm is left as it is.
        store: Training frames.
        options: Its training: minibatches, masks, and the seed of their order.
        frames: About how many to take.
        device: Where to run; the network is left there.
    """
    module = cast(nn.Module, network)
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    device = torch.device(device)
    # The loss does not matter, and some losses need what the network had in training alone.
    options = options.model_copy(update={"loss": LossOptions()})
    task = FrameTask(
        module.to(device), store, store, options, EngineOptions(), Workers.alone(device)
    )
    task.objective.train()
    seen, windows = 0, 0
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        closing(task.source.epoch(1)) as minibatches,
    ):
        # A network of the user's own may have torch's dropout.
        torch.manual_seed(options.seed)
        for minibatch in minibatches:
            windows += len(minibatch.inputs)
            for norm in norms:
                # With this share for the newest, all windows so far count alike.
                norm.momentum = len(minibatch.inputs) / windows
            set_frame_position(task.objective, step_seed(options.seed, 1, minibatch.step), 0)
            task.objective(minibatch.inputs, minibatch.targets)
            seen += minibatch.frames
            if seen >= frames:
                break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
