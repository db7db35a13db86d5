"""Convolutional networks over time and frequency."""

import torch
from torch import Tensor, nn

from mariana_asr.nnet.chunk_network import ChunkNetwork
from mariana_asr.nnet.frequency_layers import (
    BandLayout,
    LimitedConvolution,
    PooledConvolution,
    joined_maps,
)
from mariana_asr.nnet.options import CnnOptions
from mariana_asr.nnet.time_layers import TimeDelayLayer, TimeDropout, undrawn


class Cnn(ChunkNetwork):
    """Convolutions with pooling over bands, and dense layers on what they give for a frame.

    Over time nothing is filled in and nothing pooled, so that the network is a convolution over
    time. If the frames that it sees are even in number, there is one more before a frame than
    after it.
    """

    def __init__(
        self, options: CnnOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
    ) -> None:
        """The same seed gives the same initial weights.

        Raises:
            RecipeError: The frames have no such bands.
        """
        super().__init__(options, frame_dim, num_outputs)
        self._layout = BandLayout(options.transform, frame_dim, options.other_values)
        kind = PooledConvolution if options.weight_sharing == "full" else LimitedConvolution
        convolutions: list[PooledConvolution | LimitedConvolution] = []
        maps, bands = self._layout.copies, self._layout.bands
        for number, filters in enumerate(options.filters):
            convolution = kind(
                maps,
                bands,
                filters,
                (options.time_kernels[number], options.frequency_kernels[number]),
                options.pooling[number],
                options.steps[number],
                normalisation=options.normalisation,
            )
            maps, bands = convolution.maps, convolution.bands
            convolutions.append(convolution)
        self.convolutions = nn.Sequential(*convolutions)
        context = sum(options.time_kernels) - len(options.time_kernels)
        self.right_context = context // 2
        self.left_context = context - self.right_context
        dense, dim = [], maps * bands + (context + 1) * self._layout.others
        for number in range(options.hidden_layers):
            dropout = TimeDropout(options.dropout, number, over_time=options.dropout_over_time)
            dense.append(
                TimeDelayLayer(
                    [0],
                    dim,
                    options.hidden_dim,
                    normalisation=options.normalisation,
                    dropout=dropout,
                )
            )
            dim = options.hidden_dim
        self.dense = nn.Sequential(*dense)
        self.output = undrawn(nn.Linear, dim, num_outputs)
        self.draw_weights(torch.Generator().manual_seed(seed))

    def hidden_over_time(self, frames: Tensor) -> Tensor:
        """See :class:`ChunkNetwork`."""
        maps, others = self._layout.maps_of(frames)
        return self.dense(joined_maps(self.convolutions(maps), others))
