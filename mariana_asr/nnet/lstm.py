"""Recurrent networks with long short-term memory, in one direction or in both."""

import torch
from torch import Tensor, nn

from mariana_asr.nnet.chunk_network import ChunkNetwork
from mariana_asr.nnet.dropout import FrameDropout
from mariana_asr.nnet.options import LstmOptions
from mariana_asr.nnet.time_layers import undrawn

FORGET_BIAS = 1.0
"""Memories begin by keeping what they have (Jozefowicz et al. 2015)."""


class Lstm(ChunkNetwork):
    """Recurrent layers that begin each window with an empty memory.

    So where a chunk begins makes a difference: frames are always scored in chunks of
    ``chunk_frames`` with the same context, and what is learnt is what is used.
    """

    def __init__(
        self, options: LstmOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
    ) -> None:
        """The same seed gives the same initial weights."""
        super().__init__(options, frame_dim, num_outputs)
        self.exact_chunks = False
        self.left_context, self.right_context = options.left_context, options.right_frames
        # Without a direction that comes from the right, frames after a chunk are a delay.
        self._delay = 0 if options.bidirectional else options.right_frames
        layers, dim = [], frame_dim
        for _ in range(options.hidden_layers):
            layer = nn.LSTM(
                dim,
                options.cell_dim,
                batch_first=True,
                bidirectional=options.bidirectional,
                proj_size=options.projection_dim,
                # So that no weights are drawn from torch's global generator.
                device="meta",
            )
            layers.append(layer.to_empty(device="cpu"))
            dim = options.projection_dim or options.cell_dim
            dim *= 2 if options.bidirectional else 1
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(
            FrameDropout(options.dropout, number) for number in range(options.hidden_layers)
        )
        self.output = undrawn(nn.Linear, dim, num_outputs)
        self.draw_weights(torch.Generator().manual_seed(seed))

    def hidden_over_time(self, frames: Tensor) -> Tensor:
        """See :class:`ChunkNetwork`."""
        length = frames.shape[1] - self.left_context - self.right_context
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            frames = dropout(layer(frames)[0])
        return frames.narrow(1, self.left_context + self._delay, length)

    @torch.no_grad()
    def draw_weights(self, generator: torch.Generator) -> None:
        """Draw those of the output layer as others do, and then those of the recurrent layers.

        They are Gaussian with a variance of one over the number of inputs; biases are 0 but for
        the forget gates'.
        """
        super().draw_weights(generator)
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
                    continue
                parameter.zero_()
                if name.startswith("bias_ih"):
                    # The gates come in the order input, forget, cell, output.
                    parameter.view(4, -1)[1] = FORGET_BIAS
