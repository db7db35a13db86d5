"""Networks that users write: found by the name of their class, made, and tried out."""

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.network import FrameNetwork
from mariana_asr.nnet.options import CustomOptions

_WHERE = "model.class"
_REQUIRED = ("frame_dim", "num_outputs", "left_context", "right_context")
_TRIED_FRAMES = 3
"""Frames by which a network that claims to be exact is tried on longer windows."""


def build_custom_network(
    options: CustomOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
) -> FrameNetwork:
    """Make the network of a user's class, and try it on one minibatch.

    The class is called with ``frame_dim``, ``num_outputs`` and ``options.options`` as keyword
    arguments, while torch's global generator is seeded; the generator is then put back.
    ``chunk_frames`` is 1 and ``exact_chunks`` false where the network does not say.

    Args:
        options: The class and its arguments.
        frame_dim: Values a frame.
        num_outputs: Number of pdfs.
        seed: Decides the initial weights.

    Raises:
        RecipeError: The class cannot be imported or called, or is no such network as
            :class:`~mariana_asr.nnet.network.FrameNetwork` describes.
    """
    kind = import_network_class(options.class_path)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network = kind(frame_dim=frame_dim, num_outputs=num_outputs, **options.options)
        except Exception as error:  # anything may go wrong in code that is not ours
            raise RecipeError(
                f"{options.class_path} cannot be made with frame_dim={frame_dim}, "
                f"num_outputs={num_outputs} and model.options: {_summary(error)}",
                where=_WHERE,
            ) from error
        for name, default in (("chunk_frames", 1), ("exact_chunks", False)):
            if not hasattr(network, name):
                setattr(network, name, default)
        _check_attributes(network, options.class_path, frame_dim, num_outputs)
        # Layers that find their sizes in the first call draw their weights in it.
        _try_out(network, options.class_path)
    return network


def import_network_class(class_path: str) -> type[Any]:
    """Import a class that is named as ``package.module.Class``.

    Raises:
        RecipeError: There is no such module or class, or it is not a kind of ``nn.Module``.
    """
    search_working_directory()
    module_name, _, name = class_path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RecipeError(
            f"cannot import {module_name}: {_summary(error)}",
            where=_WHERE,
            remedy="Install it, put its folder on PYTHONPATH, or start the command in that folder",
        ) from error
    kind = getattr(module, name, None)
    if kind is None:
        raise RecipeError(f"{module_name} ({module.__file__}) has no {name}", where=_WHERE)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise RecipeError(f"{class_path} is not a class derived from torch.nn.Module", where=_WHERE)
    return kind


def network_source(options: CustomOptions) -> Path:
    """The file that a user's class is written in.

    Raises:
        RecipeError: As :func:`import_network_class`.
    """
    return Path(inspect.getfile(import_network_class(options.class_path)))


def search_working_directory() -> None:
    """Let modules in the working directory be imported; those found elsewhere come first."""
    directory = os.getcwd()
    if directory not in sys.path and "" not in sys.path:
        sys.path.append(directory)


def _check_attributes(network: Any, class_path: str, frame_dim: int, num_outputs: int) -> None:
    missing = [name for name in _REQUIRED if not hasattr(network, name)]
    if missing:
        raise RecipeError(
            f"a {class_path} has no attribute {', '.join(missing)}",
            where=_WHERE,
            remedy="Set them in the class or in its __init__",
        )
    least = {"left_context": 0, "right_context": 0, "chunk_frames": 1}
    for name in (*_REQUIRED, "chunk_frames"):
        value = getattr(network, name)
        if type(value) is not int or value < least.get(name, 1):
            raise RecipeError(
                f"{name} of a {class_path} is {value!r}, not a whole number of at least "
                f"{least.get(name, 1)}",
                where=_WHERE,
            )
    given = {"frame_dim": frame_dim, "num_outputs": num_outputs}
    for name, value in given.items():
        if getattr(network, name) != value:
            raise RecipeError(
                f"{name} of a {class_path} is {getattr(network, name)}, but it was made with "
                f"{name}={value}",
                where=_WHERE,
            )


@torch.no_grad()
def _try_out(network: Any, class_path: str) -> None:
    """Check the shapes of what a network gives, and its claim to be exact."""
    network.eval()
    context = network.left_context + network.right_context
    length = network.chunk_frames
    logits = _logits(network, class_path, torch.zeros(2, (context + length) * network.frame_dim))
    if network.exact_chunks:
        length += _TRIED_FRAMES
        generator = torch.Generator().manual_seed(0)
        frames = torch.randn(2, context + length, network.frame_dim, generator=generator)
        whole = _logits(network, class_path, frames.flatten(1))
        pieces = frames.unfold(1, context + 1, 1).transpose(2, 3).reshape(2 * length, -1)
        logits = _logits(network, class_path, pieces)
        if not torch.allclose(whole, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
            raise RecipeError(
                f"a {class_path} says exact_chunks, but gives frames other logits in windows of "
                f"{length} frames and their context than in windows of one",
                where=_WHERE,
                remedy="Set exact_chunks to False; it is then always given chunk_frames frames",
            )
    network.train()


def _logits(network: Any, class_path: str, windows: torch.Tensor) -> torch.Tensor:
    """The logits of some windows, if they have the right shape."""
    context = network.left_context + network.right_context
    frames = windows.shape[1] // network.frame_dim - context
    expected = (len(windows) * frames, network.num_outputs)
    given = f"windows of shape {tuple(windows.shape)}"
    try:
        logits = network(windows)
    except Exception as error:
        raise RecipeError(
            f"a {class_path} fails on {given}: {_summary(error)}", where=_WHERE
        ) from error
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise RecipeError(
            f"a {class_path} gives {shape} for {given}; logits of shape {expected} are expected",
            where=_WHERE,
            remedy=f"A window has {context + frames} frames of {network.frame_dim} values, of "
            f"which {frames} are scored",
        )
    return logits


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
