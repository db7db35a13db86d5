"""Time-delay networks of factored layers (TDNN-F)."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from mariana_asr.nnet.chunk_network import ChunkNetwork
from mariana_asr.nnet.options import TdnnfOptions
from mariana_asr.nnet.options.tdnn import FactoredLayersOptions
from mariana_asr.nnet.orthonormal import move_towards_orthonormal
from mariana_asr.nnet.time_layers import (
    SemiOrthogonalLinear,
    TimeDelayLayer,
    TimeDropout,
    over_rows,
    row_norm,
    undrawn,
)


class FactoredLayer(nn.Module):
    """A time-delay layer whose matrix is a product of two, the first semi-orthogonal.

    The first map sees a frame and one before it, the second what the first gives for a frame and
    for one after it. The layer's own input, scaled down, is added to its output.

    Attributes:
        left: Frames that the output lacks at its beginning.
        right: Frames that it lacks at its end.
    """

    def __init__(
        self,
        inputs: int,
        bottleneck_dim: int,
        stride: int,
        options: FactoredLayersOptions,
        *,
        stream: int,
    ) -> None:
        """There is no bypass where inputs and outputs differ in number."""
        super().__init__()
        outputs = options.hidden_dim
        before, after = ([-stride, 0], [0, stride]) if stride > 0 else ([0], [0])
        self.linear = undrawn(SemiOrthogonalLinear, before, inputs, bottleneck_dim, bias=False)
        self.nonlinear = TimeDelayLayer(
            after,
            bottleneck_dim,
            outputs,
            normalisation=options.normalisation,
            dropout=TimeDropout(options.dropout, stream, over_time=options.dropout_over_time),
        )
        self.bypass_scale = options.bypass_scale if inputs == outputs else 0.0
        self.left = self.right = stride

    def forward(self, frames: Tensor) -> Tensor:
        """(B, left + L + right, inputs) to (B, L, outputs)."""
        outputs = self.nonlinear(self.linear(frames))
        if self.bypass_scale == 0.0:
            return outputs
        own = frames.narrow(1, self.left, outputs.shape[1])
        return torch.add(outputs, own, alpha=self.bypass_scale)


class FactoredLayers(nn.Module):
    """Factored layers, and after them the layer that Kaldi puts before a network's output.

    That one maps to few values, to ``hidden_dim`` rectified units and to few values again.

    Attributes:
        left: Frames that the output lacks at its beginning.
        right: Frames that it lacks at its end.
        outputs: Values that it gives a frame.
    """

    def __init__(
        self, inputs: int, bottleneck_dims: Sequence[int], options: FactoredLayersOptions
    ) -> None:
        """Make a layer for each of ``options.time_strides``, with these bottlenecks."""
        super().__init__()
        layers = []
        for number, stride in enumerate(options.time_strides):
            dim = inputs if number == 0 else options.hidden_dim
            # Stream 0 is for a layer below.
            layers.append(
                FactoredLayer(dim, bottleneck_dims[number], stride, options, stream=number + 1)
            )
        self.layers = nn.Sequential(*layers)
        self.left = self.right = sum(options.time_strides)
        hidden, self.outputs = options.hidden_dim, options.prefinal_dim
        self.prefinal_linear = undrawn(SemiOrthogonalLinear, [0], hidden, self.outputs, bias=False)
        self.prefinal = TimeDelayLayer(
            [0], self.outputs, hidden, normalisation=options.normalisation
        )
        self.final_linear = undrawn(SemiOrthogonalLinear, [0], hidden, self.outputs, bias=False)
        self.final_norm = row_norm(options.normalisation, self.outputs)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, left + L + right, inputs) to (B, L, outputs)."""
        hidden = self.prefinal(self.prefinal_linear(self.layers(frames)))
        return over_rows(self.final_norm, self.final_linear(hidden))


class FactoredNetwork(ChunkNetwork):
    """The base of networks with factored layers, whose first maps are kept semi-orthogonal.

    Attributes:
        steps: Steps of training that were made: every few of them the constraint is applied.
    """

    steps: Tensor

    def __init__(self, options: FactoredLayersOptions, frame_dim: int, num_outputs: int) -> None:
        """As its base."""
        super().__init__(options, frame_dim, num_outputs)
        self._orthonormal_every = options.orthonormal_every
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def gentle_maps(self) -> Collection[nn.Module]:
        """See :class:`ChunkNetwork`; so Kaldi begins, and values grow less from layer to layer."""
        return [m.nonlinear.affine for m in self.modules() if isinstance(m, FactoredLayer)]

    def after_step(self) -> None:
        """Count a step of the optimiser, and after some of them apply the constraint.

        Kaldi applies it to each layer with a probability of 1/4 after each step; here it comes
        at regular steps, so that all workers and a resumed run do the same.
        """
        if self._orthonormal_every == 0:
            return
        self.steps += 1
        if int(self.steps) % self._orthonormal_every == 0:
            for module in self.modules():
                if isinstance(module, SemiOrthogonalLinear):
                    move_towards_orthonormal(module.weight)


class Tdnnf(FactoredNetwork):
    """A time-delay layer, then factored ones."""

    def __init__(
        self, options: TdnnfOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
    ) -> None:
        """The same seed gives the same initial weights."""
        super().__init__(options, frame_dim, num_outputs)
        self.first = TimeDelayLayer(
            options.input_offsets,
            frame_dim,
            options.hidden_dim,
            normalisation=options.normalisation,
            dropout=TimeDropout(options.dropout, 0, over_time=options.dropout_over_time),
        )
        bottleneck_dims = [options.bottleneck_dim] * len(options.time_strides)
        self.factored = FactoredLayers(options.hidden_dim, bottleneck_dims, options)
        self.left_context = self.first.left + self.factored.left
        self.right_context = self.first.right + self.factored.right
        self.output = undrawn(nn.Linear, self.factored.outputs, num_outputs)
        self.draw_weights(torch.Generator().manual_seed(seed))

    def hidden_over_time(self, frames: Tensor) -> Tensor:
        """See :class:`ChunkNetwork`."""
        return self.factored(self.first(frames))
