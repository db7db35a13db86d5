"""The fully connected network of hybrid recognisers."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mariana_asr.nnet.dropout import FrameDropout
from mariana_asr.nnet.options import DnnOptions

__all__ = ["Dnn", "DnnOptions"]

CONSTANT_STD = 1e-5
"""A feature whose standard deviation is below this is constant: it is centred, not scaled."""

OUTPUT_BIAS_RATE = 0.1
"""Kaldi's nnet1 trains the bias of the output layer at a tenth of the learning rate."""


class InputNormalisation(nn.Module):
    """Fixed shift and scale of each input: nnet1's AddShift and Rescale components."""

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        """Begin as the identity."""
        super().__init__()
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, dim) to (B, dim)."""
        return (inputs + self.shift) * self.scale


class Dnn(nn.Module):
    """Hidden layers between a window of frames and one logit a pdf.

    With sigmoid units, layers and initial values are those of Kaldi's nnet1 (make_nnet_proto.py):
    Gaussian weights of standard deviation 3.5 sqrt(2 / (inputs + outputs)), smaller by sqrt(1/12)
    in the first layer, whose inputs have the range of a unit Gaussian rather than of a sigmoid's
    output; biases uniform in [-4, 0], so that most units begin switched off; output biases 0.
    With batch norm the normalisation takes the biases' place. Rectified units begin as He et al.
    (2015) propose, with biases 0.

    Attributes:
        frame_dim: Values a frame.
        num_outputs: Number of pdfs.
        left_context: Frames before the centre that a window has.
        right_context: Frames after it.
        chunk_frames: Frames that a window of training scores: one.
        exact_chunks: That longer windows give the same logits.
        learning_rate_factors: Parameters that are trained at another rate, with its factor.
    """

    chunk_frames = 1
    exact_chunks = True

    def __init__(
        self, options: DnnOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
    ) -> None:
        """The same seed gives the same initial weights."""
        super().__init__()
        self.frame_dim, self.num_outputs = frame_dim, num_outputs
        self.left_context, self.right_context = options.left_context, options.right_context
        self.chunk_frames, self.exact_chunks = 1, True
        self._window = options.left_context + 1 + options.right_context
        self.normalisation = InputNormalisation(self._window * frame_dim)
        layers: list[nn.Module] = []
        dim = self._window * frame_dim
        for number in range(options.hidden_layers):
            layers.append(_linear(dim, options.hidden_dim, bias=not options.batch_norm))
            if options.batch_norm:
                layers.append(nn.BatchNorm1d(options.hidden_dim))
            layers.append(nn.Sigmoid() if options.activation == "sigmoid" else nn.ReLU())
            if options.dropout > 0.0:
                layers.append(FrameDropout(options.dropout, stream=number))
            dim = options.hidden_dim
        self.hidden = nn.Sequential(*layers)
        self.output = _linear(dim, num_outputs)
        self.learning_rate_factors = {"output.bias": OUTPUT_BIAS_RATE}
        self._initialise(options, torch.Generator().manual_seed(seed))

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (B, (left + L + right) * frame_dim) to logits (B * L, num_outputs)."""
        return self.output(self.hidden_of(windows))

    def hidden_of(self, windows: Tensor) -> Tensor:
        """The same windows to the last hidden layer's output (B * L, hidden_dim)."""
        dim = self._window * self.frame_dim
        if windows.shape[1] != dim:
            windows = windows.unfold(1, dim, self.frame_dim).reshape(-1, dim)
        return self.hidden(self.normalisation(windows))

    def set_input_statistics(self, mean: NDArray[np.floating], std: NDArray[np.floating]) -> None:
        """Make inputs zero-mean and of unit variance, given statistics of single frames.

        Args:
            mean: (frame_dim,) mean of the training frames.
            std: (frame_dim,) their standard deviation.
        """
        varies = np.asarray(std) > CONSTANT_STD
        scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 1.0)
        with torch.no_grad():
            for buffer, values in (
                (self.normalisation.shift, -np.asarray(mean)),
                (self.normalisation.scale, scale),
            ):
                buffer.copy_(torch.from_numpy(np.tile(values, self._window)))

    @torch.no_grad()
    def _initialise(self, options: DnnOptions, generator: torch.Generator) -> None:
        linear = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        for number, layer in enumerate([*linear, self.output]):
            if options.activation == "sigmoid":
                std = 3.5 * math.sqrt(2.0 / (layer.in_features + layer.out_features))
                if number == 0:
                    std *= math.sqrt(1.0 / 12.0)
                bias = (-4.0, 0.0)
            else:
                gain = 1.0 if layer is self.output else 2.0
                std = math.sqrt(gain / layer.in_features)
                bias = (0.0, 0.0)
            layer.weight.normal_(0.0, std, generator=generator)
            if layer is self.output:
                layer.bias.zero_()
            elif layer.bias is not None:
                layer.bias.uniform_(*bias, generator=generator)


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A layer without initial values, which would be drawn from torch's global generator."""
    return skip_init(nn.Linear, inputs, outputs, bias=bias)
