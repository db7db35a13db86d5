"""Time-delay networks."""

import torch
from torch import Tensor, nn

from mariana_asr.nnet.chunk_network import ChunkNetwork
from mariana_asr.nnet.options import TdnnOptions
from mariana_asr.nnet.time_layers import TimeDelayLayer, TimeDropout, undrawn


class Tdnn(ChunkNetwork):
    """Layers that each see a few frames of the one below: a convolution over time.

    Hidden layers are computed only at the frames that a layer above sees, and once for all frames
    of a chunk.
    """

    def __init__(
        self, options: TdnnOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
    ) -> None:
        """The same seed gives the same initial weights."""
        super().__init__(options, frame_dim, num_outputs)
        layers, dim = [], frame_dim
        for number, offsets in enumerate(options.offsets):
            dropout = TimeDropout(options.dropout, number, over_time=options.dropout_over_time)
            layers.append(
                TimeDelayLayer(
                    offsets,
                    dim,
                    options.hidden_dim,
                    normalisation=options.normalisation,
                    dropout=dropout,
                )
            )
            dim = options.hidden_dim
        self.layers = nn.Sequential(*layers)
        self.left_context = sum(layer.left for layer in layers)
        self.right_context = sum(layer.right for layer in layers)
        self.output = undrawn(nn.Linear, dim, num_outputs)
        self.draw_weights(torch.Generator().manual_seed(seed))

    def hidden_over_time(self, frames: Tensor) -> Tensor:
        """See :class:`ChunkNetwork`."""
        return self.layers(frames)
