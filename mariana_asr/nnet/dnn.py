"""The fully connected network of hybrid recognisers."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mariana_asr.nnet.dropout import FrameDropout
from mariana_asr.nnet.grouping import Maxout, PNorm
from mariana_asr.nnet.input_normalisation import InputNormalisation
from mariana_asr.nnet.options import DnnOptions

__all__ = ["Dnn", "DnnOptions"]

OUTPUT_BIAS_RATE = 0.1
"""Kaldi's nnet1 trains the bias of the output layer at a tenth of the learning rate."""


class FactoredLinear(nn.Module):
    """A linear map whose matrix is the product of two with a narrow dimension between them."""

    def __init__(self, inputs: int, bottleneck: int, outputs: int, *, bias: bool = True) -> None:
        """Without initial values."""
        super().__init__()
        self.inner = linear_layer(inputs, bottleneck, bias=False)
        self.outer = linear_layer(bottleneck, outputs, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        return self.outer(self.inner(inputs))


class Residual(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, dim) to (B, dim)."""
        return inputs + super().forward(inputs)


class Dnn(nn.Module):
    """Hidden layers between a window of frames and one logit a pdf.

    With sigmoid units, layers and initial values are those of Kaldi's nnet1 (make_nnet_proto.py):
    Gaussian weights of standard deviation 3.5 sqrt(2 / (inputs + outputs)), smaller by sqrt(1/12)
    in the first layer, whose inputs have the range of a unit Gaussian rather than of a sigmoid's
    output; biases uniform in [-4, 0], so that most units begin switched off; output biases 0.
    With normalisation its shift takes the biases' place. Other layers begin so that the mean
    square of their output is that of their input, which for rectified units is what He et al.
    (2015) propose, with biases 0.

    Attributes:
        options: What it was made of.
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
        self.options = options
        self.frame_dim, self.num_outputs = frame_dim, num_outputs
        self.left_context, self.right_context = options.left_context, options.right_context
        self._window = options.left_context + 1 + options.right_context
        self.normalisation = InputNormalisation(frame_dim, self._window)
        layers: list[nn.Module] = []
        dim = self._window * frame_dim
        for number in range(options.hidden_layers):
            layer = _hidden_layer(options, number, dim)
            # Without skips the modules are side by side, named hidden.0, hidden.1 and so on.
            layers += [Residual(*layer)] if options.residual and number > 0 else layer
            dim = options.hidden_dim
        self.hidden = nn.Sequential(*layers)
        self.output = linear_layer(dim, num_outputs)
        self.learning_rate_factors = {"output.bias": OUTPUT_BIAS_RATE}
        self._initialise(torch.Generator().manual_seed(seed))

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
        self.normalisation.set_statistics(mean, std)

    def hidden_maps(self) -> list[nn.Linear | FactoredLinear]:
        """The linear map of each hidden layer."""
        parents = [self.hidden, *(m for m in self.hidden if isinstance(m, Residual))]
        return [m for p in parents for m in p if isinstance(m, nn.Linear | FactoredLinear)]

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        sigmoid = self.options.activation == "sigmoid"
        kept = _mean_square_kept(self.options)
        for number, layer in enumerate([*self.hidden_maps(), self.output]):
            inner, outer = (
                (layer.inner, layer.outer) if isinstance(layer, FactoredLinear) else (None, layer)
            )
            inputs, outputs = (inner or outer).in_features, outer.out_features
            if sigmoid:
                std = 3.5 * math.sqrt(2.0 / (inputs + outputs))
                if number == 0:
                    std *= math.sqrt(1.0 / 12.0)
            else:
                gain = 1.0 if outer is self.output else 1.0 / kept
                std = math.sqrt(gain / inputs)
            if inner is not None:
                # The product of both is to have weights as large as a single matrix has.
                inner.weight.normal_(0.0, math.sqrt(1.0 / inputs), generator=generator)
                std *= math.sqrt(inputs / inner.out_features)
            outer.weight.normal_(0.0, std, generator=generator)
            if outer is self.output:
                outer.bias.zero_()
            elif outer.bias is not None:
                outer.bias.uniform_(-4.0 if sigmoid else 0.0, 0.0, generator=generator)


def linear_layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A layer without initial values, which would be drawn from torch's global generator."""
    return skip_init(nn.Linear, inputs, outputs, bias=bias)


def _hidden_layer(options: DnnOptions, number: int, inputs: int) -> list[nn.Module]:
    """Linear map, normalisation, non-linearity, dropout."""
    units = options.hidden_dim * options.units_a_group
    bottleneck = options.bottlenecks[number]
    biased = options.normalisation == "none"
    layer: list[nn.Module] = [
        linear_layer(inputs, units, bias=biased)
        if bottleneck is None
        else FactoredLinear(inputs, bottleneck, units, bias=biased)
    ]
    if options.normalisation == "batch":
        layer.append(nn.BatchNorm1d(units))
    elif options.normalisation == "layer":
        layer.append(nn.LayerNorm(units))
    layer.append(_activation(options))
    if options.dropout > 0.0:
        layer.append(FrameDropout(options.dropout, stream=number))
    return layer


def _activation(options: DnnOptions) -> nn.Module:
    match options.activation:
        case "sigmoid":
            return nn.Sigmoid()
        case "relu":
            return nn.ReLU()
        case "maxout":
            return Maxout(options.group_size)
        case "pnorm":
            return PNorm(options.group_size)


def _mean_square_kept(options: DnnOptions) -> float:
    """Mean square of a non-linearity's output where its inputs are unit Gaussians."""
    if options.activation == "relu":
        return 0.5
    if options.activation == "pnorm":
        return options.group_size
    # Of the largest of n, which has the density n pdf(x) cdf(x)^(n - 1): by the trapezoidal rule.
    size = options.group_size
    x = torch.linspace(-10.0, 10.0, 2001, dtype=torch.float64)
    density = size * torch.exp(-0.5 * x.square()) * torch.special.ndtr(x) ** (size - 1)
    density /= math.sqrt(2.0 * math.pi)
    return torch.trapezoid(x.square() * density, x).item()
