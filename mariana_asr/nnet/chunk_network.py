"""What networks that are trained on chunks of frames have in common."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mariana_asr.nnet.dnn import OUTPUT_BIAS_RATE
from mariana_asr.nnet.input_normalisation import InputNormalisation
from mariana_asr.nnet.options.chunks import ChunkNetworkOptions
from mariana_asr.nnet.time_layers import SemiOrthogonalLinear


class ChunkNetwork(nn.Module, ABC):
    """A network that scores the frames of a chunk together.

    A kind of network makes its layers and the output layer, sets how far it sees, and computes
    its last hidden layer for each frame that has all its context.

    Attributes:
        frame_dim: Values a frame.
        num_outputs: Number of pdfs.
        left_context: Frames before the first scored one that a window has.
        right_context: Frames after the last scored one.
        chunk_frames: Frames that a window of training scores.
        exact_chunks: That longer windows give the same logits.
        output: The last layer.
        learning_rate_factors: Parameters that are trained at another rate, with its factor.
    """

    output: nn.Linear

    def __init__(self, options: ChunkNetworkOptions, frame_dim: int, num_outputs: int) -> None:
        """Begin with a network that sees no context and has no layers."""
        super().__init__()
        self.frame_dim, self.num_outputs = frame_dim, num_outputs
        self.left_context, self.right_context = 0, 0
        self.chunk_frames, self.exact_chunks = options.chunk_frames, True
        self.normalisation = InputNormalisation(frame_dim)
        self.learning_rate_factors = {"output.bias": OUTPUT_BIAS_RATE}

    @abstractmethod
    def hidden_over_time(self, frames: Tensor) -> Tensor:
        """Normalised frames (B, left + L + right, frame_dim) to the last hidden layer (B, L, H)."""

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (B, (left + L + right) * frame_dim) to logits (B * L, num_outputs)."""
        return self.output(self.hidden_of(windows))

    def hidden_of(self, windows: Tensor) -> Tensor:
        """The same windows to the last hidden layer's output (B * L, H)."""
        frames = windows.unflatten(1, (-1, self.frame_dim))
        return self.hidden_over_time(self.normalisation(frames)).flatten(0, 1)

    def gentle_maps(self) -> Collection[nn.Module]:
        """Maps whose output is added to something: it begins with half the variance."""
        return ()

    def set_input_statistics(self, mean: NDArray[np.floating], std: NDArray[np.floating]) -> None:
        """Make inputs zero-mean and of unit variance.

        Args:
            mean: (frame_dim,) mean of the training frames.
            std: (frame_dim,) their standard deviation.
        """
        self.normalisation.set_statistics(mean, std)

    @torch.no_grad()
    def draw_weights(self, generator: torch.Generator) -> None:
        """Give all linear maps and convolutions their initial weights; biases are 0.

        They are Gaussian, and their variance is such that what comes out has that of what goes in
        (He et al. 2015): before rectifiers two over the number of inputs, and one over it before
        none and in :meth:`gentle_maps`.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                no_rectifier = module is self.output or isinstance(module, SemiOrthogonalLinear)
                gain = 1.0 if no_rectifier or module in self.gentle_maps() else 2.0
                std = sqrt(gain / module.weight[0].numel())
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
