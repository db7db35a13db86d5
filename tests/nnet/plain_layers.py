"""Layers computed frame by frame and filter by filter, to check networks against."""

import numpy as np
import torch
from torch import nn


def with_statistics(network, seed=3):
    """A network in evaluation mode and double precision whose batch norm has seen something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0.3, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            with torch.no_grad():
                module.bias.normal_(0.0, 0.3, generator=generator)
    mean = np.linspace(-1, 1, network.frame_dim)
    network.set_input_statistics(mean, mean**2 + 0.5)
    return network.double().eval()


def random_frames(length, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((length, dim))


def logits_of(network, frames):
    """What a network gives for all frames of (T, D) that have their context, as (L, P)."""
    windows = torch.from_numpy(frames.reshape(1, -1)).to(network.output.weight.dtype)
    with torch.no_grad():
        return network(windows).numpy()


def normalised_input(network, frames):
    return (frames + network.normalisation.shift.numpy()) * network.normalisation.scale.numpy()


def batch_normed(norm, values):
    """Kaldi's batch norm: no scale and shift of its own, and epsilon 0.001."""
    return (values - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + 1e-3)


def affine(layer, values):
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()
    return layer.weight.detach().numpy() @ values + bias


def layer_over_frames(layer, offsets, below):
    """The function of a frame that a linear map, rectifier and batch norm of some frames are."""

    def value(frame):
        spliced = np.concatenate([below(frame + offset) for offset in offsets])
        return batch_normed(layer.norm, np.maximum(affine(layer.affine, spliced), 0.0))

    return value
