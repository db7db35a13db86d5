"""What the rest of the program asks of a network."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class FrameNetwork(Protocol):
    """A network that scores frames; an ``nn.Module`` with these attributes.

    Called with windows (B, T * frame_dim) of T = left_context + L + right_context frames, one
    frame after the other, it gives logits (B * L, num_outputs): window by window, frame by frame.
    Frames that an utterance lacks at its edges are filled in by the caller.

    Optional attributes: ``set_input_statistics(mean, std)`` takes the (frame_dim,) mean and
    standard deviation of the training frames, once before training; ``learning_rate_factors`` maps
    names of parameters to factors on their learning rates; ``after_step()`` is called after each
    step of the optimiser, on every worker, and may change parameters as a function of themselves;
    ``hidden_of(windows)`` gives the last hidden layer (B * L, H), of which ``output``, an
    ``nn.Linear``, makes the logits: a second output layer needs them.

    Attributes:
        frame_dim: Values a frame.
        num_outputs: Number of pdfs.
        left_context: Frames before the first scored one that a window has.
        right_context: Frames after the last scored one.
        chunk_frames: Frames that each window scores in training (L).
        exact_chunks: Whether any L gives a frame the same logits: then long stretches are scored
            at once, else L is always ``chunk_frames``.
    """

    frame_dim: int
    num_outputs: int
    left_context: int
    right_context: int
    chunk_frames: int
    exact_chunks: bool

    # Of nn.Module, from which a protocol cannot inherit.

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (B, T * frame_dim) to logits (B * L, num_outputs)."""

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode."""

    def eval(self) -> Self:
        """Set evaluation mode."""

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""

    def modules(self) -> Iterator[nn.Module]:
        """The network itself and all that it consists of."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""

    def state_dict(self) -> dict[str, Any]:
        """All that a trained network keeps."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take over what another network of the same shape keeps."""
