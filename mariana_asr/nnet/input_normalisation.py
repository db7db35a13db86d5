"""Fixed normalisation of a network's input."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CONSTANT_STD = 1e-5
"""A feature whose standard deviation is below this is constant: it is centred, not scaled."""


class InputNormalisation(nn.Module):
    """Fixed shift and scale of each input: nnet1's AddShift and Rescale components.

    They are buffers, so that they are kept with the network and not trained.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, frame_dim: int, frames: int = 1) -> None:
        """Begin as the identity, on so many frames side by side."""
        super().__init__()
        self._frames = frames
        self.register_buffer("shift", torch.zeros(frames * frame_dim))
        self.register_buffer("scale", torch.ones(frames * frame_dim))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., frames * frame_dim) to the same shape."""
        return (inputs + self.shift) * self.scale

    @torch.no_grad()
    def set_statistics(self, mean: NDArray[np.floating], std: NDArray[np.floating]) -> None:
        """Make inputs zero-mean and of unit variance.

        Args:
            mean: (frame_dim,) mean of the training frames.
            std: (frame_dim,) their standard deviation.
        """
        varies = np.asarray(std) > CONSTANT_STD
        scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 1.0)
        for buffer, values in ((self.shift, -np.asarray(mean)), (self.scale, scale)):
            buffer.copy_(torch.from_numpy(np.tile(values, self._frames)))
