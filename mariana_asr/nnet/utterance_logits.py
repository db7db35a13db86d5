"""Whole utterances through a network that is trained on windows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mariana_asr.nnet.network import FrameNetwork
from mariana_asr.nnet.splicing import gather_windows, window_offsets

SCORED_FRAMES = 2048
"""Frames scored at a time, so that memory does not grow with an utterance's length."""


def utterance_logits(network: FrameNetwork, frames: Tensor) -> Iterator[Tensor]:
    """Score an utterance, one stretch of at most about ``SCORED_FRAMES`` frames after the other.

    Networks that give the same logits however an utterance is cut take a stretch as one window,
    others take it in chunks of the length that they were trained on. Frames that the utterance
    lacks at its edges are its first and last one, repeated.

    Args:
        network: The network.
        frames: (T, D) frames of the whole utterance, on the network's device.

    Yields:
        (S, P) logits of the next frames.
    """
    length, device = len(frames), frames.device
    exact = network.exact_chunks and network.chunk_frames > 1
    stretch = min(SCORED_FRAMES, length) if exact else network.chunk_frames
    offsets = window_offsets(network.left_context, network.right_context + stretch - 1, device)
    step = max(1, SCORED_FRAMES // stretch) * stretch
    for begin in range(0, length, step):
        end = min(begin + step, length)
        centre = torch.arange(begin, end, stretch, dtype=torch.int32, device=device)
        first = torch.zeros_like(centre)
        windows = gather_windows(frames, centre, first, first + length - 1, offsets)
        yield network(windows)[: end - begin]
